// The watchlist on the screen: one row a symbol, written only where something has changed.

import * as format from "./format.js";
import { CROSSED, HALTED, LOCKED, LULD, ONE_SIDED, STALE } from "./quotes.js";
import { draw, follow } from "./sparkline.js";
import { write } from "./write.js";

const BADGES = [
  [STALE, "stale"],
  [HALTED, "halted"],
  [CROSSED, "crossed"],
  [LOCKED, "locked"],
  [LULD, "at limit"],
  [ONE_SIDED, "one side"],
];
const PROBLEMS = { unknown_symbol: "unknown", no_quote: "no quote yet" };
const FRESH_MS = 400; // for so long a changed price is marked as one
const SLICES = 4; // frames over which the lines of all rows are drawn

class Row {
  constructor(template, quote, venueName) {
    this.quote = quote;
    this.venueName = venueName;
    this.element = template.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.badge = find(".badge");
    this.last = find(".last .price");
    this.canvas = find(".spark");
    this.bid = find(".bid .price");
    this.bidSize = find(".bid .size");
    this.ask = find(".ask .price");
    this.askSize = find(".ask .size");
    this.spreadCell = find(".spread");
    this.gap = find(".gap");
    this.balance = find(".balance i");
    this.age = find(".age span");
    this.shown = new Map(); // price element -> the value it shows
    follow(this.canvas);
    this.element.dataset.symbol = quote.symbol;
    find(".name").textContent = find(".name").title = quote.symbol;
    find(".remove").setAttribute("aria-label", `Remove ${quote.symbol}`);
  }

  /** Write what is known now; `connected` says whether any of it may be taken as live. `fresh` takes the prices that
   * have moved. Nothing is read back from the page, so that it is laid out once, after all rows. */
  show(connected, fresh) {
    const quote = this.quote;
    const stale = !connected || (quote.state & STALE) !== 0;
    this.stale = stale;
    this.price(this.last, quote.last, stale, fresh);
    this.price(this.bid, quote.bid, stale, fresh);
    this.price(this.ask, quote.ask, stale, fresh);
    this.size(this.bidSize, quote.bidSize, quote.bidVenue);
    this.size(this.askSize, quote.askSize, quote.askVenue);
    write(this.gap, format.spread(quote.bid, quote.ask));
    this.spreadCell.title = format.basisPoints(quote.bid, quote.ask);
    const both = (quote.bidSize ?? 0) + (quote.askSize ?? 0);
    this.balance.style.transform = `scaleX(${both ? ((quote.bidSize ?? 0) / both).toFixed(3) : 0.5})`;
    this.element.classList.toggle("stale", stale && quote.seen);
    this.element.classList.toggle("halted", (quote.state & HALTED) !== 0);
    this.element.classList.toggle("blank", !quote.seen);
    const badge = quote.seen ? BADGES.find(([bit]) => quote.state & bit)?.[1] : PROBLEMS[quote.problem];
    this.badge.hidden = !badge;
    this.badge.dataset.kind = badge ?? "";
    write(this.badge, badge ?? "");
  }

  showTrend(now) {
    const trend = this.quote.trend;
    const move = trend.length > 1 ? trend[trend.length - 1][1] - trend[0][1] : 0;
    draw(this.canvas, trend, now, this.stale ? "stale" : move > 0 ? "up" : move < 0 ? "down" : "flat");
  }

  showAge(clock) {
    write(this.age, format.age(clock.age(this.quote.time)));
  }

  /** A changed price says which way it went, by an arrow and for a moment by its colour. */
  price(element, value, stale, fresh) {
    const before = this.shown.get(element);
    if (before === value) return;
    this.shown.set(element, value);
    write(element, format.price(value));
    if (before == null || value == null || stale) return;
    element.dataset.move = value > before ? "up" : "down";
    element.classList.add("fresh");
    fresh.add(element);
  }

  size(element, value, venue) {
    write(element, venue && value != null ? `${format.size(value)} ${venue}` : format.size(value));
    element.title = venue ? this.venueName(venue) : "";
  }
}

/** The prices that have just moved, each marked for a moment. */
class Fresh {
  since = new Map(); // element -> when it moved, the longest ago first
  timer = 0;

  add(element) {
    this.since.delete(element);
    this.since.set(element, performance.now());
    this.timer ||= setTimeout(() => this.fade(), FRESH_MS);
  }

  fade() {
    const before = performance.now() - FRESH_MS + 1;
    for (const [element, moved] of this.since) {
      if (moved > before) break;
      element.classList.remove("fresh");
      this.since.delete(element);
    }
    const [next] = this.since.values();
    this.timer = next ? setTimeout(() => this.fade(), next - before) : 0;
  }
}

export class Table {
  /** `onRemove(symbol)`, `onMove(symbol, steps)`, `onOpen(symbol)`, `onExplain(symbol)`. */
  constructor({ body, template, onRemove, onMove, onOpen, onExplain }) {
    this.body = body;
    this.template = template;
    this.onRemove = onRemove;
    this.onMove = onMove;
    this.onOpen = onOpen;
    this.onExplain = onExplain;
    this.rows = new Map();
    this.dirty = new Set();
    this.fresh = new Fresh();
    this.venues = new Map();
    this.connected = false;
    body.addEventListener("click", (event) => this.clicked(event));
    body.addEventListener("keydown", (event) => this.pressed(event));
    body.addEventListener("focusin", (event) => this.setStop(event.target.closest("tr")));
  }

  /** Show exactly these quotes, in this order; rows that stay keep their element. */
  arrange(quotes) {
    const wanted = new Set(quotes.map((quote) => quote.symbol));
    for (const [symbol, row] of this.rows) {
      if (wanted.has(symbol)) continue;
      row.element.remove();
      this.rows.delete(symbol);
      this.dirty.delete(row);
    }
    quotes.forEach((quote, place) => {
      let row = this.rows.get(quote.symbol);
      if (!row) {
        row = new Row(this.template, quote, (code) => this.venues.get(code) ?? code);
        this.rows.set(quote.symbol, row);
        this.dirty.add(row);
      }
      if (this.body.children[place] !== row.element) this.body.insertBefore(row.element, this.body.children[place] ?? null);
    });
    if (!this.body.querySelector('tr[tabindex="0"]')) this.setStop(this.body.firstElementChild);
  }

  changed(symbol) {
    const row = this.rows.get(symbol);
    if (row) this.dirty.add(row);
  }

  setConnected(connected) {
    if (this.connected === connected) return;
    this.connected = connected;
    this.rows.forEach((row) => this.dirty.add(row));
  }

  /** Write the rows that have changed. */
  paint() {
    for (const row of this.dirty) row.show(this.connected, this.fresh);
    this.dirty.clear();
  }

  /** Time has passed: ages grow and lines move to the left, some rows a frame. */
  tick(clock) {
    const rows = [...this.rows.values()];
    rows.forEach((row) => row.showAge(clock));
    const each = Math.ceil(rows.length / SLICES);
    const draw = (now) => {
      rows.splice(0, each).forEach((row) => row.showTrend(now));
      if (rows.length) requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
  }

  /** Mark the row of the symbol whose chart is shown. */
  select(symbol) {
    for (const [name, row] of this.rows) {
      row.element.classList.toggle("selected", name === symbol);
      row.element.setAttribute("aria-selected", String(name === symbol));
    }
  }

  focus(symbol) {
    this.rows.get(symbol)?.element.focus();
  }

  /** One row at a time is a stop of the Tab key; arrows go on from there. */
  setStop(element) {
    this.body.querySelectorAll('tr[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    if (element) element.tabIndex = 0;
  }

  clicked(event) {
    const button = event.target.closest(".remove");
    const element = event.target.closest("tr");
    if (button) this.removeRow(element);
    else if (element) this.onOpen(element.dataset.symbol);
  }

  pressed(event) {
    const element = event.target.closest("tr");
    if (!element) return;
    const { symbol } = element.dataset;
    const steps = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (steps && event.altKey) {
      this.onMove(symbol, steps);
      element.focus();
    } else if (steps) {
      (steps < 0 ? element.previousElementSibling : element.nextElementSibling)?.focus();
    } else if (event.key === "Home" || event.key === "End") {
      (event.key === "Home" ? this.body.firstElementChild : this.body.lastElementChild).focus();
    } else if (event.key === "Enter" && event.target === element) {
      this.onOpen(symbol);
    } else if (event.key === "e" || event.key === "E") {
      this.onExplain(symbol);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.removeRow(element);
    } else {
      return;
    }
    event.preventDefault();
  }

  removeRow(element) {
    const next = element.nextElementSibling ?? element.previousElementSibling;
    const focused = element.contains(document.activeElement);
    this.onRemove(element.dataset.symbol);
    if (focused) next?.focus();
  }
}
