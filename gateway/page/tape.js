// The last trades of the symbols that are watched, and the list of one symbol's.

import * as format from "./format.js";

const KEPT = 40;
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class Tape {
  /** `venueName(code)` is how a venue is called. */
  constructor({ list, empty, venueName }) {
    this.list = list;
    this.empty = empty;
    this.venueName = venueName;
    this.trades = new Map(); // symbol -> trades, the newest first
    this.symbol = null;
    this.fresh = 0;
  }

  take(message) {
    const trades = this.trades.get(message.S) ?? [];
    const before = trades[0];
    const move = !before || before.p === message.p ? (before?.move ?? "") : message.p > before.p ? "up" : "down";
    trades.unshift({ ...message, move });
    trades.length = Math.min(trades.length, KEPT);
    this.trades.set(message.S, trades);
    if (message.S === this.symbol) this.fresh = Math.min(this.fresh + 1, KEPT);
  }

  forget(symbol) {
    this.trades.delete(symbol);
  }

  show(symbol) {
    this.symbol = symbol;
    this.list.replaceChildren();
    this.fresh = (this.trades.get(symbol) ?? []).length;
    this.paint();
  }

  /** Put the trades that have come since on top. */
  paint() {
    const trades = this.trades.get(this.symbol) ?? [];
    this.empty.hidden = trades.length > 0;
    if (!this.fresh) return;
    this.list.prepend(...trades.slice(0, this.fresh).map((trade) => this.line(trade)));
    while (this.list.children.length > KEPT) this.list.lastElementChild.remove();
    this.fresh = 0;
  }

  line(trade) {
    const item = document.createElement("li");
    item.dataset.move = trade.move;
    const parts = { time: trade.t ? TIME.format(Date.parse(trade.t)) : "", at: format.price(trade.p), shares: format.size(trade.s), venue: trade.x ?? "", codes: (trade.c ?? []).join("").replaceAll("@", "").trim() };
    for (const [name, text] of Object.entries(parts)) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      item.append(part);
    }
    item.title = [this.venueName(trade.x), trade.c?.length ? `conditions ${trade.c.join(" ")}` : ""].filter(Boolean).join(", ");
    return item;
  }
}
