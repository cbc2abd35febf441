// The page: a watchlist that is fed by /stream and knows from REST what the stream has not said yet; beside it the chart,
// the venues and the trades of one symbol. The drawing of charts is loaded behind the first prices.

import { Banner } from "./banner.js";
import { Connection } from "./connection.js";
import { Door } from "./door.js";
import { Explain } from "./explain.js";
import * as format from "./format.js";
import { Ladder } from "./ladder.js";
import { MarketClock, Quote } from "./quotes.js";
import { Search } from "./search.js";
import { Table } from "./table.js";
import { Tape } from "./tape.js";
import { write } from "./write.js";

const DEFAULTS = ["AAPL", "MSFT", "AMZN", "NVDA", "TSLA", "GOOG", "META", "SPY", "QQQ", "IBM"];
const ENOUGH = 5; // of the defaults; with fewer the busiest symbols fill the list
const LONGEST = 200; // symbols in the list: what one request of REST takes with ease
const STORAGE = "fabric.watchlist";
const STORED_VIEW = "fabric.view"; // which symbol, and how long its candles are
const TICK_MS = 500;
const ASK_AGAIN_MS = 15_000;
const CHART_AFTER_MS = 500;

const element = (id) => document.getElementById(id);
const door = new Door({ dialog: element("door") });
const quotes = new Map();
const clock = new MarketClock();
let order = [];
let updates = 0;
let rate = 0;
let painting = false;
let connectionState = { name: "connecting" };
let selected = { symbol: null, interval: "1m" };
let chart = null; // loaded behind the first prices
let operations = null; // loaded when it is looked at first

// REST

async function ask(path, parameters = {}) {
  const url = new URL(path, location.href);
  Object.entries(parameters).forEach(([name, value]) => url.searchParams.set(name, value));
  const response = await door.fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
  return response.json();
}

const askQuotes = (symbols) => ask("quotes", { symbols: symbols.join(",") });

/** Ask for what these symbols are now; whatever fails will be asked again later. */
async function refresh(symbols) {
  if (symbols.length === 0) return;
  learn(await askQuotes(symbols).catch(() => ({ quotes: [], missing: [] })));
}

function learn({ quotes: answers, missing }) {
  clock.learn(answers);
  const now = performance.now();
  for (const answer of answers) {
    quotes.get(answer.symbol)?.takeAnswer(answer, now);
    table.changed(answer.symbol);
  }
  for (const { symbol, code } of missing) {
    const quote = quotes.get(symbol);
    if (quote && !quote.seen) quote.problem = code;
    table.changed(symbol);
  }
  schedulePaint();
}

// The watchlist

function loadView() {
  try {
    const { symbol, interval } = JSON.parse(localStorage.getItem(STORED_VIEW));
    if (typeof symbol === "string" && ["1m", "5m", "1h"].includes(interval)) selected = { symbol, interval };
  } catch {
    // none yet
  }
}

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORAGE));
    return Array.isArray(stored) && stored.every((symbol) => typeof symbol === "string") ? stored : null;
  } catch {
    return null;
  }
}

function save() {
  try {
    localStorage.setItem(STORAGE, JSON.stringify(order));
  } catch {
    // private mode: the list then lasts as long as the page
  }
}

/** The usual names, or what this market has instead; and what is known of them. */
async function choose() {
  const known = await askQuotes(DEFAULTS);
  const chosen = known.quotes.map((answer) => answer.symbol);
  if (chosen.length >= ENOUGH) return { chosen, known };
  const { symbols } = await ask("symbols", { order: "busiest", limit: DEFAULTS.length });
  return { chosen: [...new Set([...chosen, ...symbols])].slice(0, DEFAULTS.length), known: null };
}

async function firstList() {
  for (;;) {
    const { chosen, known } = await choose().catch(() => ({ chosen: [] }));
    if (order.length) return; // the user was quicker
    if (chosen.length) return watch(chosen, known);
    showEmpty("Waiting for the first quotes");
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

/** Add symbols to the list; `known` is what `/quotes` has just said of them, else it is asked. */
function watch(symbols, known = null) {
  const fresh = [...new Set(symbols)].filter((symbol) => !quotes.has(symbol)).slice(0, LONGEST - order.length);
  fresh.forEach((symbol) => quotes.set(symbol, new Quote(symbol)));
  order.push(...fresh);
  rearrange();
  connection.add(fresh);
  if (known) learn(known);
  else refresh(fresh);
  if (order.length && !quotes.has(selected.symbol)) select(order[0]);
  else if (quotes.has(selected.symbol)) select(selected.symbol);
}

function unwatch(symbol) {
  quotes.delete(symbol);
  tape.forget(symbol);
  order = order.filter((other) => other !== symbol);
  rearrange();
  connection.remove([symbol]);
  save();
  if (symbol === selected.symbol && order.length) select(order[0]);
}

function move(symbol, steps) {
  const from = order.indexOf(symbol);
  const to = Math.min(order.length - 1, Math.max(0, from + steps));
  order.splice(to, 0, ...order.splice(from, 1));
  rearrange();
  save();
}

function rearrange() {
  table.arrange(order.map((symbol) => quotes.get(symbol)));
  showEmpty(order.length ? "" : "Nothing is watched. Press / and type a symbol.");
  schedulePaint();
}

function showEmpty(text) {
  element("empty").textContent = text;
  element("empty").hidden = !text;
  element("watchlist").hidden = Boolean(text);
}

// One symbol

function select(symbol, interval = selected.interval) {
  selected = { symbol, interval };
  try {
    localStorage.setItem(STORED_VIEW, JSON.stringify(selected));
  } catch {
    // private mode
  }
  element("symbol").textContent = symbol;
  for (const button of element("intervals").children) {
    const chosen = button.dataset.interval === interval;
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
  table.select(symbol);
  ladder.show(symbol);
  if (tape.symbol !== symbol) tape.show(symbol);
  chart?.show(symbol, interval);
  showNow();
}

/** The last price of the symbol that is shown, and how it stands to the middle of what is offered. */
function showNow() {
  const quote = quotes.get(selected.symbol);
  const price = quote?.last ?? quote?.mid ?? null;
  write(element("now-price"), format.price(price));
  write(element("now-change"), quote?.seen ? `${format.price(quote.bid)} × ${format.price(quote.ask)}` : "");
}

function showTitle() {
  const quote = quotes.get(selected.symbol);
  const title = quote?.seen ? `${selected.symbol} ${format.price(quote.last ?? quote.mid)} · Fabric` : "Market · Fabric";
  if (document.title !== title) document.title = title;
}

async function loadChart() {
  const { CandleChart } = await import("./chart.js");
  if (chart) return;
  chart = new CandleChart({
    container: element("chart"),
    legend: element("legend"),
    ask,
    onState(text) {
      element("chart-note").textContent = text;
      element("chart-note").hidden = !text;
    },
  });
  if (selected.symbol) chart.show(selected.symbol, selected.interval);
}

// Views

async function route() {
  const name = location.hash === "#operations" ? "operations" : "market";
  for (const view of ["market", "operations"]) element(view).hidden = view !== name;
  for (const link of document.querySelectorAll(".views a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = name;
  if (name === "operations" && !operations) {
    const { Operations } = await import("./operations.js");
    operations ??= new Operations({ element: element("operations"), ask });
  }
  operations?.setVisible(location.hash === "#operations");
}

// The stream

function receive(messages) {
  const now = performance.now();
  for (const message of messages) {
    if (message.T === "mode") banner.setMode(message);
    if (message.T === "t") tape.take(message);
    const quote = quotes.get(message.S);
    if (!quote) continue;
    if (message.T === "q") quote.takeQuote(message, now);
    else if (message.T === "t") quote.takeTrade(message);
    else continue;
    updates++;
    table.changed(message.S);
  }
  schedulePaint();
}

function schedulePaint() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    table.paint();
    tape.paint();
    showNow();
    if (!chart && quotes.get(selected.symbol)?.seen) setTimeout(loadChart);
  });
}

// Connection and time

const CONNECTION_TEXTS = { connecting: "Connecting", live: "Live", waiting: "Reconnecting" };

function showConnection(state) {
  const changed = state.name !== connectionState.name;
  connectionState = state;
  element("connection").dataset.state = state.name;
  table.setConnected(state.name === "live");
  banner.setConnection(state);
  writeConnection();
  if (changed && state.name !== "connecting") {
    element("announcer").textContent = state.name === "live" ? "Connected" : "Connection lost";
  }
  if (changed && state.name === "live") refresh(order);
  schedulePaint();
}

function writeConnection() {
  const { name, retryAt } = connectionState;
  const seconds = Math.ceil((retryAt - performance.now()) / 1000);
  write(element("connection-text"), name === "waiting" && seconds > 1 ? `Retry in ${seconds} s` : CONNECTION_TEXTS[name]);
}

function tick() {
  rate = rate * 0.6 + updates * (1000 / TICK_MS) * 0.4;
  updates = 0;
  write(element("rate"), connectionState.name === "live" ? format.rate(rate) : format.NOTHING);
  writeConnection();
  showTitle();
  if (document.visibilityState === "visible") table.tick(clock);
}

/** What the gateway reads, as the banner has just asked for. */
async function askTopology() {
  const answer = await ask("topology");
  const { venues, gateway, symbols } = answer;
  venues.forEach(({ code, name }) => table.venues.set(code, name));
  const names = venues.map(({ name }) => name).join(", ");
  write(element("source"), `Best bid and offer of ${names} · ${format.rate(symbols)} symbols · gateway ${gateway}`);
  return answer;
}

const explain = new Explain({
  dialog: element("explain"),
  ask: (symbol) => ask(`quotes/${encodeURIComponent(symbol)}/explain`),
});
const table = new Table({
  body: element("rows"),
  template: element("row"),
  onRemove: unwatch,
  onMove: move,
  onOpen: (symbol) => select(symbol),
  onExplain: (symbol) => explain.open(symbol),
});
const venueName = (code) => table.venues.get(code) ?? code ?? "";
const ladder = new Ladder({ element: element("ladder"), ask: (symbol) => ask(`quotes/${encodeURIComponent(symbol)}/explain`) });
const tape = new Tape({ list: element("tape"), empty: element("tape-empty"), venueName });
const banner = new Banner({
  element: element("banner"),
  text: element("banner").firstElementChild,
  announce: (text) => (element("announcer").textContent = text),
  ask: askTopology,
});
const connection = new Connection("stream", { ticket: () => door.ticket(), onState: showConnection, onMessages: receive });
new Search({
  form: element("search"),
  input: element("query"),
  list: element("results"),
  find: (prefix, limit) => ask("symbols", { prefix, limit }),
  isWatched: (symbol) => quotes.has(symbol),
  onChoose(symbol) {
    watch([symbol]);
    save();
    select(symbol);
    table.focus(symbol);
  },
});

element("why").addEventListener("click", () => selected.symbol && explain.open(selected.symbol));
element("intervals").addEventListener("click", ({ target }) => target.dataset.interval && select(selected.symbol, target.dataset.interval));
element("intervals").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...element("intervals").children];
  const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
  select(selected.symbol, next.dataset.interval);
  next.focus();
});
addEventListener("hashchange", route);

loadView();
const stored = load();
if (stored) watch(stored);
else firstList();
route();
banner.watch().then(() => connection.open()); // once it has its answer, the door has let us in
setTimeout(loadChart, CHART_AFTER_MS); // unless a price was quicker
setInterval(tick, TICK_MS);
setInterval(() => refresh(order), ASK_AGAIN_MS);
