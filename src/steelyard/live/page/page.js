// The live page: the public API and one WebSocket, nothing else.

import { $, POINTS, balanceShown, decimal, element, minor, money, showBalance, showCard, showChange, showHistory, showRefusal, showStep } from "./board.js";
import { endBank, startBank } from "./bank.js";
import { Connection } from "./connection.js";

const KEPT = "steelyard.page";
const CARDS_SHOWN = 100;
const PAGES_OF_CARDS = 10;
const STATES = { connecting: "connecting…", reconnecting: "reconnecting…", live: "live", unplugged: "unplugged", asleep: "asleep", ended: "ended" };

let session = null; // tokens: {service, admin}; of a pasted one, both
let cards = [];
let shown = []; // cards in the list now
let active = 0;
let card = null; // the account on screen
let connection = null;
let filled = 0; // rows are whole up to this seq
let isFilling = false;
let isDraining = false;

// --- who asks -------------------------------------------------------------------------------------

function enter(found) {
  session = found;
  sessionStorage.setItem(KEPT, JSON.stringify(found));
}

function lock(why) {
  connection?.end();
  endBank();
  connection = card = session = null;
  sessionStorage.removeItem(KEPT);
  showState("off", "not connected");
  $("board").hidden = true;
  $("gate").hidden = false;
  $("gate-why").textContent = why;
}

// The code leaves the address at once; it opens the page once.
async function redeem() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (!code) return false;
  history.replaceState(null, "", location.pathname);
  try {
    const opened = await call("POST", "/api/live/page-sessions", { body: { code }, as: null });
    enter({ service: opened.service_token, admin: opened.admin_token });
    return true;
  } catch (error) {
    lock(sentence(error));
    return null;
  }
}

async function call(method, path, { body, as = "admin", key } = {}) {
  const headers = {};
  if (as) headers.Authorization = `Bearer ${session[as]}`;
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = `page-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(15_000) });
  } catch {
    throw { detail: "the server does not answer" };
  }
  const found = await answer.json();
  if (answer.ok) return found;
  if (answer.status === 401 && as) lock("The token is not valid any more.");
  throw found;
}

function sentence({ detail = "something failed" }) {
  return `${detail[0].toUpperCase()}${detail.slice(1)}.`;
}

function notice(text, kind = "") {
  $("notice").textContent = text;
  $("notice").className = `notice ${kind}`;
}

function tellRefusal(text) {
  showRefusal(text);
  notice(text, "bad");
}

const attempt = (act) => async (...given) => {
  try {
    await act(...given);
  } catch (error) {
    if (!(error && error.detail)) throw error;
    notice(sentence(error), "bad");
  }
};

// --- the list of cards ----------------------------------------------------------------------------

async function loadCards() {
  const found = [];
  let cursor = "";
  for (let page = 0; page < PAGES_OF_CARDS && cursor !== null; page += 1) {
    const told = await call("GET", `/api/accounts?limit=500${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    found.push(...told.data);
    cursor = told.next_cursor;
  }
  cards = found.filter(isCard).sort((a, b) => b.seq - a.seq);
  cards.forEach(label);
}

const isCard = (one) => one.kind === "held" && one.user !== null;
const label = (one) => (one.label = one.name || one.reference || one.user);

// What is not in the list may be new, or beyond its end: a user is found by its whole id.
let looking = 0;
function lookFor(user) {
  clearTimeout(looking);
  if (!user) return;
  looking = setTimeout(attempt(async () => {
    const told = await call("GET", `/api/accounts?user=${encodeURIComponent(user)}`);
    const found = told.data.filter((one) => isCard(one) && !cards.some((other) => other.account === one.account));
    found.forEach(label);
    cards.push(...found);
    if (found.length) showCards();
  }), 250);
}

function showCards() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = cards.filter((one) => `${one.label} ${one.user} ${one.account}`.toLowerCase().includes(wanted));
  shown = found.slice(0, CARDS_SHOWN);
  active = Math.max(0, shown.findIndex((one) => one.account === card?.account));
  $("cards").replaceChildren(...shown.map((one, index) => {
    const item = element("li");
    item.id = `card-${index}`;
    item.role = "option";
    item.ariaSelected = String(one.account === card?.account);
    item.append(element("span", "", one.label), element("span", "", changesOf(one)));
    item.addEventListener("click", () => pick(one));
    return item;
  }));
  lookFor(found.length ? "" : $("find").value.trim());
  const more = found.length - shown.length;
  $("found").textContent = more ? `and ${more} more: type to find one` : `${found.length} of ${cards.length}`;
  showActive();
}

const changesOf = (one) => (one.seq === 1 ? "1 change" : `${one.seq} changes`);

function showActive() {
  const items = $("cards").children;
  for (let index = 0; index < items.length; index += 1) items[index].classList.toggle("active", index === active);
  if (!items.length) return $("cards").removeAttribute("aria-activedescendant");
  $("cards").setAttribute("aria-activedescendant", items[active].id);
  const box = $("cards"), top = items[active].offsetTop - box.offsetTop;
  if (top < box.scrollTop || top + items[active].offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 3;
}

function steer(event) {
  const last = shown.length - 1;
  const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + 8, PageUp: active - 8, Home: 0, End: last }[event.key];
  if (to !== undefined) {
    active = Math.min(last, Math.max(0, to));
    showActive();
  } else if (event.key === "Enter" || event.key === " ") {
    if (shown[active]) pick(shown[active]);
  } else return;
  event.preventDefault();
}

// --- one card -------------------------------------------------------------------------------------

const pick = attempt(async (chosen) => {
  connection?.end();
  connection = null;
  card = chosen;
  isDraining = false;
  sessionStorage.setItem(`${KEPT}.card`, chosen.account);
  $("asked").replaceChildren();
  notice("");
  fold();
  $("picked").textContent = chosen.label;
  showCard(chosen);
  showCards();
  showPlug();
  await loadHistory();
  if (card !== chosen) return;
  connection = new Connection({ account: chosen.account, position: filled, address: socketAddress, tell: hear });
});

// On a phone the list makes room for what was picked.
function fold() {
  if (!matchMedia("(max-width: 46rem)").matches) return;
  const wasInside = $("picker").contains(document.activeElement);
  $("picker").open = false;
  if (wasInside) $("picker").querySelector("summary").focus();
}

function socketAddress(positions) {
  const query = new URLSearchParams({ token: session.admin, user: card.user, accounts: "all", positions: JSON.stringify(positions) });
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/balance?${query}`;
}

async function loadHistory() {
  const asked = card;
  const told = await call("GET", `/api/accounts/${asked.account}/history?limit=${POINTS}`);
  if (card !== asked) return;
  showHistory(told.data.reverse());
  filled = told.data.at(-1)?.seq ?? 0;
}

// What changed is told at once; what it was about is read after it, and rows that were merged away with it.
async function fillIn() {
  if (isFilling) return;
  isFilling = true;
  const asked = card;
  try {
    while (card === asked && connection?.isPlugged && filled < connection.position) {
      const told = await call("GET", `/api/accounts/${asked.account}/changes?after_seq=${filled}&limit=200`);
      if (card !== asked || !told.data.length) return;
      if (told.has_more) return void (await loadHistory());
      for (const change of told.data) showChange(change, true);
      filled = told.last_seq;
    }
  } catch (error) {
    if (!error.detail) throw error; // the next change, or the next connection, asks again
  } finally {
    isFilling = false;
  }
}

function hear(what, facts) {
  if (what === "state") {
    showState(facts.state, facts.state === "waiting" ? `back in ${facts.seconds} s` : STATES[facts.state]);
  } else if (what === "balance") {
    const now = minor(facts.newBalance ?? facts.balance);
    const step = facts.newBalance === undefined ? 0 : now - minor(facts.previousBalance);
    showBalance(now, minor(facts.held), facts.seq);
    if (step) showStep(step);
    const counted = document.querySelector('#cards [aria-selected="true"] span:last-child');
    if (counted) counted.textContent = changesOf(card);
    fillIn();
  } else if (what === "change") {
    const { seq, transactionType, amount, newBalance, timestamp } = facts;
    showChange({ seq, kind: transactionType, amount: minor(amount), available_after: minor(newBalance), posted_at: timestamp }, true);
  } else if (what === "resumed") {
    const { missed, holes } = facts;
    const came = `${missed} ${missed === 1 ? "change" : "changes"} came meanwhile`;
    if (!missed) notice("Back where it was: nothing came meanwhile.", "good");
    else if (holes) notice(`Back: ${came}, too many to replay one by one; the balance is the newest.`, "good");
    else notice(`Resumed: ${came} and ${missed === 1 ? "was" : "all were"} replayed; 0 missed.`, "good");
  } else if (what === "restarted") {
    attempt(loadHistory)();
  } else if (what === "refused") {
    const [asked, there, short] = [facts.requiredAmount, facts.currentBalance, facts.shortfall].map((one) => money(minor(one)));
    tellRefusal(`Refused: ${asked} asked for, ${there} there, ${short} short.`);
  } else if (what === "failed") {
    tellRefusal("A top-up was refused.");
  } else if (what === "expiring") {
    notice("The page's token ends in a minute; `steelyard page` prints a new address.", "bad");
  } else if (what === "ended") {
    if (facts.code === 4401) lock(facts.why);
    else showState("ended", facts.why);
  }
}

function showState(state, text) {
  $("state").dataset.state = $("board").dataset.state = state;
  $("state").textContent = text;
}

// --- what can be done -----------------------------------------------------------------------------

function given(input) {
  const match = /^\s*(\d{1,12})(?:[.,](\d+))?\s*$/.exec(input.value);
  const fraction = match?.[2] ?? "";
  const found = match && fraction.length <= card.digits ? Number(match[1] + fraction.padEnd(card.digits, "0")) : 0;
  if (found < 1) {
    input.focus();
    throw { detail: `an amount such as ${decimal(5 * 10 ** card.digits)} is needed` };
  }
  return found;
}

const unseen = () => (connection?.isPlugged ? "" : " This page does not know: the plug is out.");

const charge = (amount) =>
  call("POST", `/api/accounts/${card.account}/charges`, { body: { amount, description: "Charge from the live page" }, as: "service", key: true });

const chargeOnce = attempt(async () => {
  const amount = given($("charge"));
  notice(`Charging ${money(amount)}…`);
  try {
    await charge(amount);
  } catch (error) {
    if (error.code !== "insufficient_funds") throw error;
    return notice(`Refused, nothing was charged: ${money(amount)} is more than there is.${unseen()}`, "bad");
  }
  notice(`Charged ${money(amount)}.${unseen()}`);
});

// Six charges of a little more than a sixth of the balance: the last one is refused, whatever it is.
const drain = attempt(async () => {
  if (isDraining) return;
  const asked = card;
  const amount = Math.max(Math.floor(balanceShown() / 6) + 1, 1);
  isDraining = $("drain").disabled = true;
  try {
    for (let count = 0; count < 12 && card === asked; count += 1) {
      await charge(amount);
      await new Promise((done) => setTimeout(done, 350));
    }
  } catch (error) {
    if (error.code !== "insufficient_funds") throw error;
    if (!connection?.isPlugged) notice(`Refused: the balance does not cover ${money(amount)}.${unseen()}`, "bad");
  } finally {
    isDraining = $("drain").disabled = false;
  }
});

const askTopup = attempt(async () => {
  const amount = given($("topup"));
  const body = `{"amount":${decimal(amount)},"accountId":"${card.account}"}`;
  const asked = await call("POST", "/api/transactions/topup", { body: JSON.parse(body), as: "service" });
  const item = element("li");
  const decide = (text, status, told) => {
    const button = element("button", status === "success" ? "primary" : "", text);
    button.type = "button";
    button.ariaLabel = `${text} the top-up of ${money(amount)}`;
    button.addEventListener("click", attempt(async () => {
      await call("PATCH", `/api/transactions/topup/${asked.id}/process`, { body: { status } });
      item.remove();
      notice(`${told} by the admin: ${money(amount)}.${unseen()}`, status === "success" ? "good" : "");
      $("topup").focus({ preventScroll: true });
    }));
    return button;
  };
  item.append(element("span", "", money(amount)), decide("Approve", "success", "Approved"), decide("Refuse", "failed", "Refused"));
  $("asked").append(item);
  notice(`Asked for ${money(amount)}; nothing moves until it is approved.`);
  item.querySelector("button").focus({ preventScroll: true });
});

function showPlug() {
  const isOut = connection !== null && !connection.isPlugged;
  $("plug").textContent = isOut ? "Plug in again" : "Pull the plug";
  $("plug-told").textContent = isOut
    ? `Unplugged at change ${connection.position}. Spend something, then plug in again.`
    : "Changes go on without this page. It comes back where it was.";
}

function togglePlug() {
  if (!connection) return;
  if (connection.isPlugged) connection.unplug();
  else connection.plug();
  showPlug();
}

// --- start ----------------------------------------------------------------------------------------

const start = attempt(async () => {
  $("gate").hidden = true;
  $("board").hidden = false;
  startBank({ call, token: () => session?.admin });
  await loadCards();
  const kept = sessionStorage.getItem(`${KEPT}.card`);
  const chosen = cards.find((one) => one.account === kept) ?? cards[0];
  showCards();
  if (chosen) await pick(chosen);
  else notice("There is no account yet: `steelyard user add` makes one.");
});

async function open() {
  const isNew = await redeem();
  if (isNew === null) return;
  session ??= JSON.parse(sessionStorage.getItem(KEPT));
  if (session) await start();
  else lock("");
}

function onSubmit(form, act) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

onSubmit("gate-form", () => {
  const token = $("gate-token").value.trim();
  $("gate-token").value = "";
  enter({ service: token, admin: token });
  start();
});
onSubmit("charge-form", chargeOnce);
onSubmit("topup-form", askTopup);
$("drain").addEventListener("click", drain);
$("plug").addEventListener("click", togglePlug);
$("find").addEventListener("input", showCards);
$("find").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") $("cards").focus();
  else if (event.key === "Enter" && shown.length) pick(shown[0]);
  else return;
  event.preventDefault();
});
$("cards").addEventListener("keydown", steer);
addEventListener("hashchange", open);
open();
