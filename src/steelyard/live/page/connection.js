// One account over the plain WebSocket `/balance`: told once per position and in order, whatever the connection does.

const PAUSE_MS = 400;
const LONGEST_PAUSE_MS = 15_000;
const PROBE_MS = 25_000;
const ANSWER_MS = 5_000;
const HIDDEN_MS = 600_000; // a page nobody sees for so long lets go, and resumes when it is seen
// Coming back would be refused again.
const FINAL = new Map([
  [4400, "The server did not understand this page; reload it."],
  [4401, "The token is not valid any more."],
  [4403, "This token may not watch this account."],
]);

export class Connection {
  position; // the last `seq` told
  #account;
  #address; // (positions) => URL
  #tell; // (what, facts); what: state, balance, change, resumed, restarted, refused, failed, expiring, ended
  #completed;
  #socket = null;
  #timer = 0;
  #probe = 0;
  #hidden = 0;
  #tries = 0;
  #left = null; // position at which the last connection ended
  #holes = 0;
  #isPlugged = true;
  #stop = new AbortController();

  constructor({ account, position, address, tell }) {
    this.#account = account;
    this.position = this.#completed = position;
    this.#address = address;
    this.#tell = tell;
    const { signal } = this.#stop;
    addEventListener("online", () => this.#hurry(), { signal });
    addEventListener("offline", () => this.#check(), { signal });
    document.addEventListener("visibilitychange", () => this.#seen(!document.hidden), { signal });
    this.#open();
  }

  get isPlugged() {
    return this.#isPlugged;
  }

  unplug() {
    this.#isPlugged = false;
    this.#drop();
    this.#tell("state", { state: "unplugged" });
  }

  plug() {
    this.#isPlugged = true;
    this.#tries = 0;
    this.#open();
  }

  end() {
    this.#stop.abort();
    this.#isPlugged = false;
    clearTimeout(this.#hidden);
    this.#drop();
  }

  #seen(isVisible) {
    clearTimeout(this.#hidden);
    if (isVisible) this.#hurry();
    else this.#hidden = setTimeout(() => this.#sleep(), HIDDEN_MS);
  }

  #sleep() {
    this.#drop();
    if (this.#isPlugged) this.#tell("state", { state: "asleep" });
  }

  #drop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#probe);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      this.#left ??= this.position;
      socket.close();
    }
  }

  #open() {
    this.#drop();
    this.#tell("state", { state: this.#left === null ? "connecting" : "reconnecting" });
    const socket = new WebSocket(this.#address({ [this.#account]: this.position }));
    this.#socket = socket;
    const mine = (listener) => (event) => this.#socket === socket && listener(event);
    socket.addEventListener("message", mine((event) => this.#hear(JSON.parse(event.data))));
    socket.addEventListener("close", mine((event) => this.#closed(event)));
    this.#expect(ANSWER_MS * 2);
  }

  #closed({ code }) {
    this.#drop();
    if (FINAL.has(code)) {
      this.#isPlugged = false;
      this.#tell("ended", { code, why: FINAL.get(code) });
      return;
    }
    const most = code === 4429 ? LONGEST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** this.#tries);
    const pause = most * (0.5 + Math.random() / 2); // so that many who lost one server do not return at once
    this.#tries += 1;
    this.#timer = setTimeout(() => this.#open(), pause);
    this.#tell("state", { state: "waiting", seconds: Math.ceil(pause / 1000) });
  }

  // The network or the person is back: do not wait for the pause to end.
  #hurry() {
    if (!this.#isPlugged) return;
    if (this.#socket) this.#check();
    else this.#open();
  }

  // A socket whose other end is gone says nothing; whoever is there answers.
  #check() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send('{"event":"get_current_balance"}');
    this.#expect(ANSWER_MS);
  }

  #expect(within) {
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => this.#closed({ code: 1006 }), within);
  }

  #hear(said) {
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => this.#check(), PROBE_MS);
    if (said.accountId !== undefined && said.accountId !== this.#account) return;
    if (said.event === "balance_initial") this.#begin(said);
    else if (said.event === "balance_updated") this.#update(said);
    else if (said.event === "transaction_completed") this.#complete(said);
    else if (said.event === "balance_insufficient") this.#tell("refused", said);
    else if (said.event === "transaction_failed") this.#tell("failed", said);
    else if (said.event === "auth_expiring") this.#tell("expiring", said);
  }

  #begin(said) {
    this.#tries = 0;
    if (said.seq < this.position) {
      if (said.resumed === false) this.#restart(said);
      return;
    }
    this.#holes += said.seq - this.position;
    const since = this.#left;
    const holes = this.#holes;
    this.#left = null;
    this.#holes = 0;
    this.position = said.seq;
    this.#tell("state", { state: "live" });
    this.#tell("balance", said);
    if (since !== null) this.#tell("resumed", { missed: said.seq - since, holes });
  }

  // The database does not have our position: it was put back to an earlier state, and so are we.
  #restart(said) {
    this.position = this.#completed = said.seq;
    this.#left = null;
    this.#holes = 0;
    this.#tell("state", { state: "live" });
    this.#tell("restarted", said);
  }

  // The position moves before anybody hears of it, so that nothing a listener does brings a change twice.
  #update(said) {
    if (said.seq <= this.position) return;
    this.#holes += Math.max(0, said.prevSeq - this.position);
    this.position = said.seq;
    this.#tell("balance", said);
  }

  #complete(said) {
    if (said.seq <= this.#completed) return;
    this.#completed = said.seq;
    this.#tell("change", said);
  }
}
