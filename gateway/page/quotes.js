// What is known of each watched symbol. Fed by the stream and by REST; knows nothing of the page.

export const LOCKED = 1;
export const CROSSED = 2;
export const ONE_SIDED = 4;
export const HALTED = 8;
export const STALE = 16;
export const PARTIAL = 32;
export const LULD = 64; // a side is at or beyond its price band

const BITS = { locked: LOCKED, crossed: CROSSED, "one-sided": ONE_SIDED, halted: HALTED, stale: STALE, partial: PARTIAL, luld: LULD };
const TREND_MS = 120_000;
const TREND_STEP_MS = 400;

export class Quote {
  constructor(symbol) {
    this.symbol = symbol;
    this.bid = this.ask = this.last = null;
    this.bidSize = this.askSize = null;
    this.bidVenue = this.askVenue = null;
    this.state = 0;
    this.time = null; // the exchange's, in ms since the epoch
    this.problem = null; // why there is nothing to show
    this.trend = []; // [page's time in ms, mid], the oldest first
  }

  get seen() {
    return this.time != null;
  }

  get mid() {
    return this.bid != null && this.ask != null ? (this.bid + this.ask) / 2 : null;
  }

  /** A `q` of the stream. Sides that a stale quote no longer has stay as they were: it is marked, not emptied. */
  takeQuote(message, now) {
    this.state = message.st ?? 0;
    this.problem = null;
    const emptied = this.state & STALE && message.bp == null && message.ap == null;
    if (!emptied) {
      this.bid = message.bp;
      this.ask = message.ap;
      this.bidSize = message.bs;
      this.askSize = message.as;
      this.bidVenue = message.bx;
      this.askVenue = message.ax;
      this.time = Date.parse(message.t);
    }
    if (!(this.state & STALE)) this.addTrend(now);
  }

  takeTrade(message) {
    this.last = message.p;
  }

  /** An answer of `/quotes`: what the stream has not brought yet. */
  takeAnswer(answer, now) {
    this.last ??= answer.last;
    this.problem = null;
    if (this.seen) return;
    this.bid = answer.bid;
    this.ask = answer.ask;
    this.bidSize = answer.bid_size;
    this.askSize = answer.ask_size;
    this.bidVenue = answer.bid_venue;
    this.askVenue = answer.ask_venue;
    this.time = answer.t == null ? null : Date.parse(answer.t);
    this.state = answer.flags.reduce((bits, flag) => bits | BITS[flag], 0);
    if (!(this.state & STALE)) this.addTrend(now);
  }

  addTrend(now) {
    const mid = this.mid;
    if (mid == null) return;
    const trend = this.trend;
    if (trend.length > 1 && now - trend[trend.length - 2][0] < TREND_STEP_MS) trend.pop();
    trend.push([now, mid]);
    while (trend.length > 2 && trend[1][0] < now - TREND_MS) trend.shift();
  }
}

/** How far the page's clock is from the market's, learnt from answers that carry a time and an age. */
export class MarketClock {
  offset = 0;

  learn(answers) {
    const offsets = answers
      .filter((answer) => answer.ts != null && answer.age_ms != null)
      .map((answer) => Date.now() - (answer.ts * 1000 + answer.age_ms))
      .sort((a, b) => a - b);
    if (offsets.length) this.offset = offsets[offsets.length >> 1];
  }

  age(time) {
    return time == null ? null : Date.now() - this.offset - time;
  }
}
