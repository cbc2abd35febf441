// What is not as it should be, in one line at the top: the connection, a publisher, a venue's line, a busy gateway.

const EVERY_MS = 500;
const REMEMBERED_MS = 12_000; // a feed that was lost and is back at once is told for so long
const LINES = { stale: "is silent", gap: "has a gap", recover: "is catching up" };

export class Banner {
  /** `ask()` gives the answer of `/topology`. */
  constructor({ element, text, announce, ask }) {
    this.element = element;
    this.text = text;
    this.announce = announce;
    this.ask = ask;
    this.connection = { name: "connecting" };
    this.mode = null;
    this.topology = null;
    this.losses = new Map(); // publisher -> how often its link was lost
    this.lately = new Map(); // publisher -> when that last grew
  }

  setConnection(state) {
    this.connection = state;
    this.show();
  }

  setMode(message) {
    this.mode = message.mode === "normal" ? null : message;
    this.show();
  }

  /** Ask again and again, while somebody looks. */
  async watch() {
    if (document.visibilityState === "visible") {
      this.topology = await this.ask().catch(() => this.topology);
      this.learn();
      this.show();
    }
    setTimeout(() => this.watch(), EVERY_MS);
  }

  learn() {
    for (const { name, losses } of this.topology?.nodes ?? []) {
      if (losses == null) continue;
      if (losses > (this.losses.get(name) ?? losses)) this.lately.set(name, performance.now());
      this.losses.set(name, losses);
    }
  }

  /** What is wrong, the worst first: [kind, words]. */
  problems() {
    const found = [];
    if (this.connection.name === "waiting") found.push(["alarm", "Connection lost: prices stand still"]);
    const venues = new Map((this.topology?.venues ?? []).map((venue) => [venue.code, venue]));
    const silenced = new Set();
    for (const node of this.topology?.nodes ?? []) {
      const codes = [...(node.venues ?? "")];
      const what = codes.length ? codes.map((code) => venues.get(code)?.name ?? code).join(", ") : node.name;
      const of = codes.length || !node.letters ? "" : ` (symbols ${spans(node.letters)})`;
      if (node.up === false) {
        found.push(["alarm", `${what} is down${of}: its values are stale`]);
        codes.forEach((code) => silenced.add(code));
      } else if (performance.now() - (this.lately.get(node.name) ?? -Infinity) < REMEMBERED_MS) {
        found.push(["warn", `${what} was lost and is back${of}`]);
      }
    }
    for (const { code, name, state } of venues.values()) {
      if (LINES[state] && !silenced.has(code)) found.push([state === "stale" ? "alarm" : "warn", `${name} ${LINES[state]}`]);
    }
    if (this.mode?.mode === "degraded") found.push(["warn", `The gateway is busy: updates each ${this.mode.interval_ms} ms`]);
    if (this.mode?.mode === "draining") found.push(["warn", "The gateway is restarting"]);
    return found.sort((a, b) => (b[0] === "alarm") - (a[0] === "alarm"));
  }

  show() {
    const problems = this.problems();
    const text = problems.map(([, words]) => words).join(" · ");
    this.element.hidden = !text;
    if (this.text.textContent === text) return;
    this.text.textContent = text;
    this.element.dataset.kind = problems[0]?.[0] ?? "";
    this.announce(text);
  }
}

/** ABCDEFGH -> A–H */
function spans(letters) {
  return letters.length > 2 ? `${letters[0]}–${letters[letters.length - 1]}` : letters;
}
