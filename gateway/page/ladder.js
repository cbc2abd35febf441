// Which venue quotes what: both sides of a symbol by price, who holds the best of each, who is left out and why.

import * as format from "./format.js";
import { write } from "./write.js";

const EVERY_MS = 1_000;
const ORDER = ["best", "at_best", "ahead", "behind", "out", "none"];
const MARKS = { best: "best", at_best: "at best", ahead: "newer", behind: "", out: "out", none: "" };

export class Ladder {
  /** `ask(symbol)` gives the answer of `/quotes/{symbol}/explain`. */
  constructor({ element, ask }) {
    this.sides = Object.fromEntries(["bid", "ask"].map((side) => [side, element.querySelector(`[data-side=${side}] ol`)]));
    this.facts = element.querySelector(".facts");
    this.ask = ask;
    this.symbol = null;
    this.timer = 0;
  }

  show(symbol) {
    if (symbol === this.symbol) return;
    this.symbol = symbol;
    Object.values(this.sides).forEach((list) => list.replaceChildren());
    this.facts.textContent = "";
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    const { symbol } = this;
    if (symbol && document.visibilityState === "visible") {
      const answer = await this.ask(symbol).catch(() => null);
      if (symbol !== this.symbol) return;
      if (answer) this.write(answer);
    }
    this.timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  write(answer) {
    const out = answer.flags.filter((flag) => flag !== "national");
    const kind = answer.kind === "nbbo" ? "National best bid and offer" : `Composite of ${answer.scope.length} ${answer.scope.length === 1 ? "venue" : "venues"}`;
    this.facts.textContent = [kind, ...out].join(" · ");
    const largest = Math.max(1, ...answer.venues.flatMap((venue) => [venue.bid.size ?? 0, venue.ask.size ?? 0]));
    for (const side of ["bid", "ask"]) this.writeSide(answer, side, largest);
  }

  writeSide(answer, side, largest) {
    const better = side === "bid" ? -1 : 1;
    const venues = [...answer.venues].sort(
      (a, b) =>
        (a[side].standing === "out") - (b[side].standing === "out") ||
        (a[side].price == null) - (b[side].price == null) ||
        better * ((a[side].price ?? 0) - (b[side].price ?? 0)) ||
        ORDER.indexOf(a[side].standing) - ORDER.indexOf(b[side].standing),
    );
    const list = this.sides[side];
    while (list.children.length > venues.length) list.lastElementChild.remove();
    venues.forEach((venue, place) => this.line(list, place, venue, venue[side], largest));
  }

  line(list, place, venue, quote, largest) {
    const item = list.children[place] ?? list.appendChild(made());
    item.dataset.venue = venue.venue;
    item.dataset.standing = quote.standing;
    item.classList.toggle("stale", Boolean(venue.stale));
    const [bar, price, size, name, mark] = item.children;
    bar.style.width = `${((quote.size ?? 0) / largest) * 100}%`;
    write(price, format.price(quote.price));
    write(size, format.size(quote.size));
    write(name, venue.name);
    write(mark, (MARKS[quote.standing] ?? "") + (quote.slow ? " slow" : ""));
    item.title = quote.why ?? "";
    mark.title = quote.why ?? "";
    const why = item.children[5];
    write(why, quote.standing === "out" ? quote.why ?? "" : "");
  }
}

function made() {
  const item = document.createElement("li");
  for (const name of ["depth", "at", "shares", "venue", "mark", "why"]) {
    const part = document.createElement(name === "depth" ? "i" : "span");
    part.className = name;
    item.append(part);
  }
  return item;
}
