// Why a best bid and offer is what it is: a dialog with the venues by side, who holds it, and who is left out and why.

import * as format from "./format.js";

const EVERY_MS = 1_000;
const ORDER = ["best", "at_best", "ahead", "behind", "out", "none"];
const WORDS = { best: "holds it", at_best: "at the best", ahead: "newer", behind: "behind", out: "left out", none: "no quote" };
const NAMES = { nbbo: "National best bid and offer", composite: "Composite of the venues read: not the NBBO" };

export class Explain {
  /** `ask(symbol)` gives the answer of `/quotes/{symbol}/explain`. */
  constructor({ dialog, ask }) {
    this.dialog = dialog;
    this.ask = ask;
    this.timer = 0;
    this.symbol = null;
    this.find = (selector) => dialog.querySelector(selector);
    this.find(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      clearTimeout(this.timer);
      this.symbol = null;
    });
  }

  open(symbol) {
    this.symbol = symbol;
    this.find("h2").textContent = symbol;
    for (const part of [".kind", ".facts"]) this.find(part).textContent = "";
    for (const side of ["bid", "ask"]) this.find(`[data-side=${side}] ul`).replaceChildren();
    if (!this.dialog.open) this.dialog.showModal();
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    const { symbol } = this;
    const answer = await this.ask(symbol).catch(() => null);
    if (symbol !== this.symbol) return; // closed, or another one's, meanwhile
    if (answer) this.show(answer);
    else this.find(".kind").textContent = "No answer from the gateway";
    this.timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  show(answer) {
    this.find(".kind").textContent = NAMES[answer.kind];
    const { lower, upper } = answer.bands;
    const facts = [
      answer.flags.filter((flag) => flag !== "national").join(", "),
      answer.round_lot == null ? "" : `round lot ${format.size(answer.round_lot)}`,
      lower == null && upper == null ? "" : `bands ${format.price(lower)} to ${format.price(upper)}`,
      answer.halted_by ? `halted by the word of ${[...answer.halted_by].join(" ")}` : "",
    ];
    this.find(".facts").textContent = facts.filter(Boolean).join(" · ");
    for (const side of ["bid", "ask"]) this.showSide(answer, side);
  }

  showSide(answer, side) {
    const best = answer[side];
    const odd = best.odd_lot;
    const section = this.find(`[data-side=${side}]`);
    const total = best.price == null ? "none" : `${format.price(best.price)} · ${format.size(best.total)} in all`;
    const beside = odd ? `best odd lot ${format.size(odd.size)} at ${format.price(odd.price)} (${odd.venue})` : "";
    section.querySelector(".total").textContent = [total, beside].filter(Boolean).join(" · ");
    const better = side === "bid" ? -1 : 1;
    const venues = [...answer.venues].sort(
      (a, b) =>
        ORDER.indexOf(a[side].standing) - ORDER.indexOf(b[side].standing) ||
        better * ((a[side].price ?? 0) - (b[side].price ?? 0)) ||
        a.venue.localeCompare(b.venue),
    );
    section.querySelector("ul").replaceChildren(...venues.map((venue) => line(venue, venue[side])));
  }
}

function line(venue, side) {
  const item = document.createElement("li");
  item.dataset.standing = side.standing;
  item.dataset.venue = venue.venue;
  add(item, "venue", venue.venue).title = venue.name;
  add(item, "at", format.price(side.price));
  add(item, "shares", format.size(side.size));
  add(item, "standing", WORDS[side.standing] + (side.slow ? ", slow" : ""));
  add(item, "why", side.why);
  return item;
}

function add(item, name, text) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  item.append(made);
  return made;
}
