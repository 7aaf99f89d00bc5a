// What is seen of one card: balance, changes, chart. Text from data is only ever set as text.

const ROWS = 60;
export const POINTS = 80;
const SPOKEN_EVERY_MS = 4_000;
const WORDS = {
  charge: "Purchase", capture: "Purchase", booking: "Booking", recharge: "Recharge", topup: "Top-up", refund: "Refund",
  reversal: "Reversal", transfer: "Transfer", hold: "Set aside", release: "Given back", expire: "Given back", adjustment: "Correction",
};

export const $ = (id) => document.getElementById(id);
let card = null; // the account on screen
let rows = new Map(); // seq -> its row's parts
let points = []; // [seq, available], ascending
let available = 0;

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- money ----------------------------------------------------------------------------------------

// Minor units are written as a decimal text, exactly; a number's fraction never decides.
export function decimal(minor) {
  const digits = String(Math.abs(minor)).padStart(card.digits + 1, "0");
  const whole = digits.slice(0, digits.length - card.digits);
  return `${minor < 0 ? "-" : ""}${whole}${card.digits ? `.${digits.slice(-card.digits)}` : ""}`;
}

export function money(minor, signDisplay = "auto") {
  const digits = { minimumFractionDigits: card.digits, maximumFractionDigits: card.digits };
  const format = new Intl.NumberFormat(undefined, { style: "currency", currency: card.currency, signDisplay, ...digits });
  return format.format(decimal(minor)).replace("-", "\u2212");
}

// Payloads of the socket name major units.
export const minor = (major) => Math.round(major * 10 ** card.digits);

// --- one card -------------------------------------------------------------------------------------

export function showCard(chosen) {
  card = chosen;
  $("name").textContent = card.label;
  $("account").textContent = card.account;
  // Until this card's are here, no other card's numbers stand under its name.
  $("amount").textContent = "…";
  $("seq").textContent = $("held").textContent = "–";
  $("step").textContent = "";
  $("spoken").textContent = "";
}

export const balanceShown = () => available;

export function showHistory(changes) {
  rows = new Map();
  points = [];
  $("feed").replaceChildren();
  changes.slice(-ROWS).forEach((change) => showChange(change, false));
  const last = changes.at(-1);
  points = changes.map((change) => [change.seq, change.available_after]);
  if (!last) $("feed").append(element("li", "empty", "Nothing yet. Spend or top up."));
  showBalance(last?.available_after ?? 0, last?.held_after ?? 0, last?.seq ?? 0);
}

export function showBalance(now, held, seq) {
  available = now;
  card.seq = seq;
  $("amount").textContent = money(now);
  $("seq").textContent = seq;
  $("held").textContent = money(held);
  $("held").parentElement.hidden = held === 0;
  addPoint(seq, now);
}

export function showStep(step) {
  const fresh = element("span", `step new ${step < 0 ? "out" : "in"}`, money(step, "always"));
  fresh.id = "step";
  fresh.ariaHidden = "true";
  $("step").replaceWith(fresh);
  speak();
}

let spokenAt = 0;
let speaking = 0;
function speak() {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    spokenAt = Date.now();
    if (card) $("spoken").textContent = `Balance ${money(available)}`;
  }, Math.max(250, spokenAt + SPOKEN_EVERY_MS - Date.now()));
}

function aboutOf(change) {
  const told = change.details ?? {};
  const word = WORDS[change.kind] ?? change.kind;
  const on = told.date && new Date(`${told.date}T12:00`).toLocaleDateString(undefined, { dateStyle: "medium" });
  const what = told.merchant || told.description || word;
  return { what, about: on ? `for ${on}` : what === word ? null : word };
}

export function showChange(change, isNew) {
  const { what, about } = aboutOf(change);
  let row = rows.get(change.seq);
  if (!row) {
    row = { item: element("li", isNew ? "new" : ""), what: element("span", "what"), sum: element("span"), about: element("span", "about"), after: element("span", "after") };
    row.item.append(row.what, row.sum, row.about, row.after);
    rows.set(change.seq, row);
    place(row.item, change.seq);
  }
  const amount = change.amount || -(change.held_amount ?? 0);
  row.what.textContent = what;
  row.sum.textContent = money(amount, "always");
  row.sum.className = `sum ${amount < 0 ? "out" : "in"}`;
  row.after.textContent = money(change.available_after);
  addPoint(change.seq, change.available_after);
  const at = new Date(change.posted_at).toLocaleTimeString();
  row.about.textContent = [`#${change.seq}`, about, at].filter(Boolean).join(" · ");
}

// Newest on top; a row that comes late takes the place its number says.
function place(item, seq) {
  const feed = $("feed");
  feed.querySelector(".empty")?.remove();
  item.dataset.at = seq;
  const below = [...feed.children].find((one) => Number(one.dataset.at) < seq);
  feed.insertBefore(item, below ?? null);
  while (feed.children.length > ROWS) {
    rows.delete(Number(feed.lastChild.dataset.at));
    feed.lastChild.remove();
  }
}

export function showRefusal(text) {
  const item = element("li", "new");
  item.append(element("span", "refusal", text), element("span", "about", new Date().toLocaleTimeString()));
  place(item, card.seq + 0.5); // it changed nothing: between two changes
}

function addPoint(seq, after) {
  let at = points.length;
  while (at && points[at - 1][0] >= seq) at -= 1;
  if (points[at]?.[0] === seq) return;
  points.splice(at, 0, [seq, after]);
  if (points.length > POINTS) points.shift();
  draw();
}

let drawing = 0;
function draw() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(drawChart);
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawChart() {
  const svg = $("chart");
  const title = $("chart-title");
  if (!card || !points.length) return void svg.replaceChildren(title);
  const { width, height } = svg.getBoundingClientRect();
  const values = points.map(([, after]) => after);
  const most = Math.max(...values), least = Math.min(...values);
  const bottom = least >= 0 && least < most * 0.6 ? 0 : least;
  const x = (index) => (points.length === 1 ? width - 8 : (index / (points.length - 1)) * (width - 8));
  const y = (value) => height - 6 - ((value - bottom) / (most - bottom || 1)) * (height - 26);
  let line = `M${points.length === 1 ? 0 : x(0)} ${y(values[0])}`;
  values.forEach((value, index) => (line += `H${x(index).toFixed(1)}V${y(value).toFixed(1)}`));
  const end = [x(values.length - 1), y(values.at(-1))];
  const rules = [...new Set([most, bottom])].flatMap((value) => [
    drawn("line", { class: "rule", x1: 0, x2: width, y1: y(value), y2: y(value) }),
    drawn("text", { x: 0, y: y(value) - 5 }, money(value)),
  ]);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  title.textContent = `Balance over the last ${points.length} changes, from ${money(values[0])} to ${money(values.at(-1))}`;
  svg.replaceChildren(
    title,
    drawn("path", { class: "area", d: `${line}V${height}H0Z` }),
    ...rules,
    drawn("path", { class: "line", d: line }),
    drawn("circle", { cx: end[0], cy: end[1], r: 4.5 }),
  );
  $("chart-from").textContent = `change ${points[0][0]}`;
  $("chart-to").textContent = `change ${points.at(-1)[0]}`;
}

new ResizeObserver(draw).observe($("chart"));
