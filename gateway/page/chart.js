// Candles of one symbol: history, what runs now, and everything between from one stream; older ones as one scrolls back.

import * as charts from "./vendor/lightweight-charts-5.2.1.js";
import * as format from "./format.js";

const FIRST = 400; // candles that the stream begins with
const PAGE = 600; // and that each look further back brings
const ASK_BEFORE = 60; // so many candles before the oldest one comes into view
const FEW = 12; // candles that leave most of the chart empty: it says since when there are any
const SPACING = 8; // pixels of a candle, and at most twice that where few fill the chart
const LOST_MS = 12_000; // the stream says something each 5 s
const PARTIAL_MS = 5_000; // a history that did not answer is asked again after so long

const SECONDS = { "1m": 60, "5m": 300, "1h": 3600 };
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clock = (options) => new Intl.DateTimeFormat(undefined, { hour12: false, ...options });
const MINUTE = clock({ hour: "2-digit", minute: "2-digit" });
const DAY = clock({ day: "numeric", month: "short" });
const FULL = clock({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export class CandleChart {
  /** `ask(path, parameters)` promises JSON; `onState(text)` is told what is not as it should be, "" for nothing. */
  constructor({ container, legend, ask, onState }) {
    this.container = container;
    this.legend = legend;
    this.ask = ask;
    this.onState = onState;
    this.candles = new Map(); // start in seconds -> candle
    this.older = null;
    this.loading = false;
    this.partial = false; // the history did not answer when the range was read
    this.symbol = this.interval = null;
    this.source = null;
    this.hovered = null;
    this.spacing = SPACING; // not of the look: a change of that leaves the zoom as it is
    const look = this.look();
    this.chart = charts.createChart(container, { autoSize: true, ...look, timeScale: { ...look.timeScale, barSpacing: SPACING } });
    this.prices = this.chart.addSeries(charts.CandlestickSeries, {});
    this.volumes = this.chart.addSeries(charts.HistogramSeries, {
      priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.chart.priceScale("right").applyOptions({ scaleMargins: { top: 0.12, bottom: 0.22 } });
    this.restyle();
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => range && range.from < ASK_BEFORE && this.lookBack());
    this.chart.subscribeCrosshairMove((at) => this.hover(at.time ?? null));
    container.addEventListener("keydown", (event) => this.pressed(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
    setInterval(() => this.checkSilence(), 1_000);
  }

  look() {
    return {
      layout: {
        background: { type: charts.ColorType.Solid, color: "transparent" }, textColor: style("--faint"), fontSize: 11,
        fontFamily: style("--figures"), attributionLogo: false,
      },
      grid: { vertLines: { visible: false }, horzLines: { color: style("--line") } },
      rightPriceScale: { borderVisible: false },
      timeScale: {
        borderVisible: false, timeVisible: true, secondsVisible: false, rightOffset: 6, minBarSpacing: 1.5,
        tickMarkFormatter: (time, type) => (type < 3 ? DAY : MINUTE).format(time * 1000),
      },
      localization: { timeFormatter: (time) => FULL.format(time * 1000), priceFormatter: format.price },
      crosshair: { mode: charts.CrosshairMode.Normal, vertLine: { color: style("--faint"), labelBackgroundColor: style("--soft") }, horzLine: { color: style("--faint"), labelBackgroundColor: style("--soft") } },
    };
  }

  restyle() {
    this.chart.applyOptions(this.look());
    const [up, down] = [style("--up"), style("--down")];
    this.prices.applyOptions({ upColor: up, wickUpColor: up, borderUpColor: up, downColor: down, wickDownColor: down, borderDownColor: down, priceLineColor: style("--faint") });
    this.volumeColours = { up: style("--up-flash"), down: style("--down-flash") };
    this.warn = style("--warn");
    if (this.candles.size) this.draw();
  }

  /** Show another symbol or interval. What was asked for before no longer counts. */
  show(symbol, interval) {
    if (symbol === this.symbol && interval === this.interval) return;
    this.symbol = symbol;
    this.interval = interval;
    this.candles.clear();
    this.older = null;
    this.loading = this.partial = false;
    this.prices.setData([]);
    this.volumes.setData([]);
    this.write(null);
    this.open(true);
  }

  open(fresh) {
    this.source?.close();
    this.heardAt = this.openedAt = performance.now();
    const query = new URLSearchParams({ interval: this.interval, limit: FIRST, follow: true });
    const source = new EventSource(`candles/${encodeURIComponent(this.symbol)}?${query}`);
    this.source = source;
    let first = fresh;
    source.addEventListener("candles", (event) => {
      this.take(JSON.parse(event.data), first);
      first = false;
    });
    source.addEventListener("candle", (event) => this.change(JSON.parse(event.data)));
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.onState(this.candles.size ? "Candles stand still" : "No candles of this symbol yet");
    };
  }

  checkSilence() {
    const { source } = this;
    if (!source) return;
    if (source.readyState === EventSource.CLOSED) this.open(this.candles.size === 0);
    else if (performance.now() - this.heardAt > LOST_MS) this.open(false);
    else if (this.partial && performance.now() - this.openedAt > PARTIAL_MS) this.open(false);
  }

  /** The range that a stream begins with; after a pause it joins what is there, or replaces it where a hole would be left. */
  take(answer, fresh) {
    this.heardAt = performance.now();
    const range = answer.candles;
    const last = Math.max(...this.candles.keys());
    if (!fresh && range.length && range[0].start > last + SECONDS[this.interval] && answer.older) this.candles.clear();
    if (!this.candles.size || this.partial) this.older = answer.older;
    range.forEach((candle) => this.candles.set(candle.start, candle));
    this.partial = Boolean(answer.partial);
    this.draw();
    this.tell();
    if (!fresh) return;
    this.fit(range.length);
    this.chart.timeScale().scrollToRealTime();
  }

  /** Few candles may be wider, unless the user has zoomed. */
  fit(count) {
    const scale = this.chart.timeScale();
    if (Math.abs(scale.options().barSpacing - this.spacing) > 0.01) return;
    this.spacing = Math.min(2 * SPACING, Math.max(SPACING, this.container.clientWidth / (count + 8)));
    scale.applyOptions({ barSpacing: this.spacing });
  }

  /** Why older candles, or all, are missing. */
  tell() {
    const count = this.candles.size;
    if (this.partial) this.onState("The history does not answer: older candles may be missing");
    else if (!count) this.onState("No candles of this symbol yet");
    else this.onState(count < FEW && !this.older ? `Candles begin at ${MINUTE.format(Math.min(...this.candles.keys()) * 1000)}` : "");
  }

  change(candle) {
    this.heardAt = performance.now();
    const last = Math.max(...this.candles.keys());
    this.candles.set(candle.start, candle);
    if (candle.start < last) return this.draw(); // a revision
    this.tell();
    this.prices.update(this.price(candle));
    this.volumes.update(this.volume(candle));
    this.write(this.hovered);
  }

  async lookBack() {
    if (this.loading || !this.older) return;
    this.loading = true;
    const { symbol, interval } = this;
    const answer = await this.ask(`candles/${encodeURIComponent(symbol)}`, { interval, limit: PAGE, end: this.older }).catch(() => null);
    if (symbol !== this.symbol || interval !== this.interval) return; // another one's meanwhile
    this.loading = false;
    if (!answer) return;
    answer.candles.forEach((candle) => this.candles.has(candle.start) || this.candles.set(candle.start, candle));
    this.older = answer.partial ? this.older : answer.older;
    this.draw();
    this.tell();
  }

  draw() {
    const sorted = [...this.candles.values()].sort((a, b) => a.start - b.start);
    this.prices.setData(sorted.map((candle) => this.price(candle)));
    this.volumes.setData(sorted.map((candle) => this.volume(candle)));
    this.write(this.hovered);
  }

  /** A candle of nothing but odd lots has no prices and leaves its place empty; one with a gap is drawn in the colour of doubt. */
  price({ start, open, high, low, close, gap }) {
    if (open == null) return { time: start };
    const doubt = gap ? { wickColor: this.warn, borderColor: this.warn } : {};
    return { time: start, open, high, low, close: close ?? open, ...doubt };
  }

  volume({ start, open, close, volume }) {
    return { time: start, value: volume ?? 0, color: (close ?? open) >= open ? this.volumeColours.up : this.volumeColours.down };
  }

  hover(time) {
    this.hovered = time;
    this.write(time);
  }

  write(time) {
    const candle = this.candles.get(time) ?? this.candles.get(Math.max(...this.candles.keys()));
    this.container.dataset.count = this.candles.size;
    this.container.dataset.oldest = Math.min(...this.candles.keys());
    this.legend.replaceChildren();
    if (!candle) return;
    const close = candle.close ?? candle.open;
    const parts = [["O", format.price(candle.open)], ["H", format.price(candle.high)], ["L", format.price(candle.low)], ["C", format.price(close)], ["V", format.size(candle.volume)]];
    for (const [name, text] of parts) {
      const value = document.createElement("b");
      value.textContent = text;
      value.dataset.name = name;
      const item = document.createElement("span");
      item.append(`${name} `, value);
      this.legend.append(item);
    }
    this.legend.dataset.move = close >= candle.open ? "up" : "down";
    this.legend.dataset.start = candle.start;
    if (candle.gap) {
      const doubt = document.createElement("span");
      doubt.className = "doubt";
      doubt.textContent = "trades may be missing";
      this.legend.append(doubt);
    }
    this.container.setAttribute("aria-label", `${this.symbol}, candles of ${this.interval}, last ${format.price(close)}`);
  }

  /** The chart under the focus: arrows scroll, + and - zoom, End goes to now. */
  pressed(event) {
    const scale = this.chart.timeScale();
    const step = event.shiftKey ? 60 : 10;
    if (event.key === "ArrowLeft") scale.scrollToPosition(scale.scrollPosition() - step, false);
    else if (event.key === "ArrowRight") scale.scrollToPosition(scale.scrollPosition() + step, false);
    else if (event.key === "End") scale.scrollToRealTime();
    else if (event.key === "+" || event.key === "-") {
      const spacing = scale.options().barSpacing * (event.key === "+" ? 1.25 : 0.8);
      scale.applyOptions({ barSpacing: Math.min(60, Math.max(1.5, spacing)) });
    } else return;
    event.preventDefault();
  }
}
