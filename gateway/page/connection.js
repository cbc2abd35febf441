// One WebSocket that comes back: state, subscriptions, silence, back-off.
//
// The server is told what to send each time the socket opens anew, so a subscription is only ever the set in
// `symbols`. A quiet market and a dead connection look alike, so after some silence the server is asked for an
// answer that changes nothing; a socket that does not answer is dead, whatever TCP thinks of it.

const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 15_000;
const SETTLED_MS = 10_000; // open for so long: the next failure starts from the shortest delay again
const ASK_AFTER_MS = 2_000;
const DEAD_AFTER_MS = 5_000;
const INTERVAL_MS = 100;

export class Connection {
  /**
   * `ticket()` gives a promise of what opens the stream once, or of null; `onState({name, retryAt})`, name one of
   * connecting, live, waiting; `onMessages([message])`.
   */
  constructor(path, { ticket, onState, onMessages }) {
    this.url = new URL(path, location.href);
    this.url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.ticket = ticket;
    this.onState = onState;
    this.onMessages = onMessages;
    this.symbols = new Set();
    this.failures = 0;
    this.socket = null;
    this.timer = 0;
    this.heardAt = 0;
    this.greeted = false;
    addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.retryNow());
    setInterval(() => this.checkSilence(), 1_000);
  }

  async open() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.greeted = false;
    this.onState({ name: "connecting" });
    const ticket = await this.ticket().catch(() => null); // without one the handshake is refused, and tried again
    this.url.search = ticket ? new URLSearchParams({ ticket }) : "";
    this.heardAt = performance.now();
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onmessage = (event) => this.receive(socket, event.data);
    socket.onclose = () => this.lost(socket);
  }

  add(symbols) {
    const fresh = symbols.filter((symbol) => !this.symbols.has(symbol));
    fresh.forEach((symbol) => this.symbols.add(symbol));
    if (this.greeted) this.subscribe("subscribe", fresh);
  }

  remove(symbols) {
    symbols.forEach((symbol) => this.symbols.delete(symbol));
    if (this.greeted) this.subscribe("unsubscribe", symbols);
  }

  subscribe(action, symbols) {
    if (symbols.length === 0) return;
    const request = { action, quotes: symbols, trades: symbols };
    if (action === "subscribe") request.interval_ms = INTERVAL_MS;
    this.send(request);
  }

  send(request) {
    this.socket.send(JSON.stringify(request));
  }

  receive(socket, data) {
    if (socket !== this.socket) return;
    this.heardAt = performance.now();
    const messages = JSON.parse(data);
    if (!this.greeted && messages.some((message) => message.T === "success")) {
      this.greeted = true;
      this.openedAt = performance.now();
      this.onState({ name: "live" });
      this.subscribe("subscribe", [...this.symbols]);
    }
    this.onMessages(messages);
  }

  lost(socket) {
    if (socket !== this.socket) return; // we gave it up before it noticed
    this.socket = null;
    if (this.greeted && performance.now() - this.openedAt > SETTLED_MS) this.failures = 0;
    this.greeted = false;
    const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.failures++);
    const delay = ceiling / 2 + (Math.random() * ceiling) / 2; // all clients of a gateway lose it at the same instant
    this.timer = setTimeout(() => this.open(), delay);
    this.onState({ name: "waiting", retryAt: performance.now() + delay });
  }

  retryNow() {
    if (this.timer) this.open();
  }

  checkSilence() {
    const { socket } = this;
    const silent = performance.now() - this.heardAt;
    if (socket && silent > DEAD_AFTER_MS) {
      this.lost(socket);
      socket.close();
    } else if (this.greeted && silent > ASK_AFTER_MS) {
      this.send({ action: "unsubscribe", req_id: "ping" });
    }
  }
}
