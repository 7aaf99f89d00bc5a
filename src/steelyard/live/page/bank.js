// Users whose money is at the core bank: what was read, when, and whether that is fresh. Text from data is only ever set as text.

import { $, element } from "./board.js";

const USERS_SHOWN = 12;
const ASK_MS = 3_000;
const STEP_MS = 6_000;
const ANSWER_MS = 10_000;
const PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;
const FINAL = [4400, 4401, 4403]; // coming back would be refused again
const SOURCES = { asked: "answers", away: "away", waiting: "asks us to wait", paused: "paused", off: "not set up" };
const STATES = { fresh: "fresh", stale: "stale", new: "not read yet", paused: "paused", stored: "stored", unknown: "not known" };
const REASONS = {
  timeout: "stored; the sync goes on", sync_failed: "stored; the bank could not be read", paused: "stored; syncs are paused", sync_off: "stored; no core bank is set up",
  wallet: "no: this user has a wallet only", inactive: "no: this user is not active", no_accounts: "no accounts at the bank", unknown_user: "no such user", cancelled: "stored; the sync was cancelled",
};

let ports = null; // {call, token}
let tiles = new Map(); // user -> Tile
let told = null; // the newest answer
let ahead = 0; // the server's clock before ours, ms
let asking = 0;
let ticking = 0;

function money(account, minor, signDisplay = "auto") {
  const digits = String(Math.abs(minor)).padStart(account.digits + 1, "0");
  const whole = digits.slice(0, digits.length - account.digits);
  const text = `${minor < 0 ? "-" : ""}${whole}${account.digits ? `.${digits.slice(-account.digits)}` : ""}`;
  const format = { minimumFractionDigits: account.digits, maximumFractionDigits: account.digits };
  return new Intl.NumberFormat(undefined, { style: "currency", currency: account.currency, signDisplay, ...format }).format(text).replace("-", "\u2212");
}

const clock = (moment) => new Date(moment).toLocaleTimeString();

function ago(moment) {
  const seconds = Math.max(0, Math.round((Date.now() + ahead - Date.parse(moment)) / 1000));
  if (seconds < 90) return `${seconds} s ago`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `at ${new Date(moment).toLocaleString()}`;
}

// --- one user -------------------------------------------------------------------------------------

class Tile {
  item = element("li", "tile");
  #head = element("div", "head");
  #state = element("span", "chip");
  #sums = element("div", "sums");
  #read = element("span", "read");
  #button = element("button", "", "Log in");
  #answer = element("p", "answer");
  #rows = new Map(); // account -> {sum, step}
  #user;
  #socket = null;
  #timer = 0;
  #tries = 0;
  #forgetting = 0;

  constructor(user) {
    this.#user = user;
    const name = element("h3", "", user.name || user.user);
    this.#head.append(name, this.#state);
    const foot = element("div", "foot");
    this.#answer.role = "status";
    foot.append(this.#answer, this.#read, this.#button);
    this.#button.type = "button";
    this.#button.ariaLabel = `Log in as ${user.name || user.user}`;
    this.#button.addEventListener("click", () => this.#logIn());
    this.item.append(this.#head, this.#sums, foot);
    this.#open();
  }

  show(user) {
    this.#user = user;
    for (const account of user.accounts) this.#row(account).take(account, account.balance, account.seq);
    const known = new Set(user.accounts.map((one) => one.account));
    for (const [account, row] of this.#rows) {
      if (known.has(account)) continue;
      row.line.remove();
      this.#rows.delete(account);
    }
    this.tell(user.state);
  }

  tell(state) {
    this.#state.dataset.state = state;
    const since = state === "stale" && this.#user.read_at ? ` since ${clock(this.#user.read_at)}` : "";
    this.#state.textContent = (STATES[state] ?? state) + since;
    const { last_result: result } = this.#user;
    this.#state.title = result && result !== "ok" ? `last sync: ${result}` : "";
    this.tick();
  }

  tick() {
    this.#read.textContent = this.#user.read_at ? `read ${ago(this.#user.read_at)}` : "";
  }

  end() {
    clearTimeout(this.#timer);
    clearTimeout(this.#forgetting);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.item.remove();
  }

  #row(account) {
    let row = this.#rows.get(account.account);
    if (row) return row;
    row = new Row(account, this.#rows.size === 0);
    this.#rows.set(account.account, row);
    this.#sums.append(row.line);
    return row;
  }

  async #logIn() {
    clearTimeout(this.#forgetting);
    this.#button.disabled = true;
    this.#answer.className = "answer";
    this.#answer.textContent = "asking…";
    const began = performance.now();
    try {
      const said = await ports.call("POST", `/api/sync/users/${encodeURIComponent(this.#user.user)}/login`);
      const took = performance.now() - began;
      const after = took < 1000 ? `${Math.round(took)} ms` : `${(took / 1000).toFixed(1)} s`;
      this.#answer.classList.add(said.ok ? "good" : "bad");
      this.#answer.textContent = `answered in ${after}: ${said.ok ? "fresh" : (REASONS[said.reason] ?? said.reason)}`;
    } catch (error) {
      if (!(error && error.detail)) throw error;
      this.#answer.classList.add("bad");
      this.#answer.textContent = error.detail;
    } finally {
      this.#button.disabled = false;
      this.#forgetting = setTimeout(() => (this.#answer.textContent = ""), ANSWER_MS);
    }
    ask();
  }

  // Every account of the user over one socket; a balance is a state, so after a pause the first message heals all.
  #open() {
    if (document.hidden) return;
    const token = ports.token();
    if (!token) return;
    const query = new URLSearchParams({ token, user: this.#user.user, accounts: "all" });
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/balance?${query}`);
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => this.#socket === socket && this.#hear(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => this.#socket === socket && this.#closed(code));
  }

  #closed(code) {
    this.#socket = null;
    if (FINAL.includes(code)) return;
    const most = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** this.#tries);
    this.#tries += 1;
    this.#timer = setTimeout(() => this.#open(), most * (0.5 + Math.random() / 2));
  }

  // A page that nobody sees needs no sockets.
  seen() {
    clearTimeout(this.#timer);
    if (document.hidden) {
      const socket = this.#socket;
      this.#socket = null;
      socket?.close();
    } else if (!this.#socket) this.#open();
  }

  #hear(said) {
    const row = this.#rows.get(said.accountId);
    if (!row || (said.event !== "balance_initial" && said.event !== "balance_updated")) return;
    this.#tries = 0;
    row.take(null, Math.round((said.newBalance ?? said.balance) * 10 ** row.account.digits), said.seq);
  }
}

class Row {
  line = element("p", "sum");
  #sum = element("span", "minor");
  #step = element("span", "step");
  #about = element("span", "about");
  #fading = 0;
  #seq = -1;
  #balance = 0;

  constructor(account, isFirst) {
    this.account = account;
    if (isFirst) this.line.classList.add("first");
    this.line.append(this.#sum, this.#step, this.#about);
    this.#step.ariaHidden = "true";
  }

  take(account, balance, seq) {
    if (account) this.account = account;
    const { account_type: type, ending, read_at: readAt } = this.account;
    this.#about.textContent = `${type ? `${type[0]}${type.slice(1).toLowerCase()} ` : ""}··${ending}`;
    if (seq < this.#seq || (seq === this.#seq && balance === this.#balance)) return;
    const step = balance - this.#balance;
    const isChange = this.#seq > 0 && step !== 0;
    [this.#seq, this.#balance] = [seq, balance];
    this.#sum.textContent = seq === 0 && !readAt ? "…" : money(this.account, balance);
    if (isChange) this.#flash(step);
  }

  #flash(step) {
    const fresh = element("span", `step new ${step < 0 ? "out" : "in"}`, money(this.account, step, "always"));
    fresh.ariaHidden = "true";
    this.#step.replaceWith(fresh);
    this.#step = fresh;
    this.line.classList.remove("moved");
    void this.line.offsetWidth; // so that the animation begins anew
    this.line.classList.add("moved");
    clearTimeout(this.#fading);
    this.#fading = setTimeout(() => {
      this.#step.textContent = "";
      this.line.classList.remove("moved");
    }, STEP_MS);
  }
}

// --- all of them ----------------------------------------------------------------------------------

async function ask() {
  clearTimeout(asking);
  if (!ports) return;
  const mine = ports;
  try {
    const found = await mine.call("GET", `/api/sync/users?limit=${USERS_SHOWN}`);
    if (ports !== mine) return;
    told = found;
    ahead = Date.parse(told.now) - Date.now();
    show();
  } catch (error) {
    if (!(error && error.detail)) throw error;
    if (ports !== mine) return;
    showSource("unknown", error.code === "forbidden" ? "" : error.detail);
    for (const tile of tiles.values()) tile.tell("unknown");
  }
  if (ports === mine && !document.hidden) asking = setTimeout(ask, ASK_MS);
}

function show() {
  $("bank").hidden = told.data.length === 0;
  for (const user of told.data) {
    let tile = tiles.get(user.user);
    if (!tile) {
      tile = new Tile(user);
      tiles.set(user.user, tile);
      $("bank-users").append(tile.item);
    }
    tile.show(user);
  }
  const known = new Set(told.data.map((one) => one.user));
  for (const [user, tile] of tiles) {
    if (known.has(user)) continue;
    tile.end();
    tiles.delete(user);
  }
  const { state, until } = told.source;
  const isOver = until && Date.parse(until) <= Date.parse(told.now);
  const again = until ? (isOver ? ", being tried" : `, asked again at ${clock(until)}`) : "";
  const every = state === "asked" && told.interval_ms ? `, read every ${told.interval_ms / 1000} s` : "";
  showSource(state, `${SOURCES[state] ?? state}${again}${every}`);
  $("bank-more").textContent = told.has_more ? `The first ${USERS_SHOWN} users; the API lists all.` : "";
  $("bank-try").hidden = !told.data.some((one) => one.user.startsWith("demo-"));
}

// Told to a screen reader when it changes, not each time it is asked for.
function showSource(state, text) {
  $("bank-state").dataset.state = state;
  if ($("bank-state").textContent !== text) $("bank-state").textContent = text;
}

function seen() {
  for (const tile of tiles.values()) tile.seen();
  if (document.hidden) clearTimeout(asking);
  else ask();
}

export function startBank(given) {
  endBank();
  ports = given;
  document.addEventListener("visibilitychange", seen);
  ticking = setInterval(() => tiles.forEach((tile) => tile.tick()), 1000);
  return ask();
}

export function endBank() {
  ports = null;
  clearTimeout(asking);
  clearInterval(ticking);
  document.removeEventListener("visibilitychange", seen);
  tiles.forEach((tile) => tile.end());
  tiles = new Map();
  $("bank").hidden = true;
}
