// The page: a watchlist that is fed by /stream and knows from REST what the stream has not said yet.

import { Connection } from "./connection.js";
import { Explain } from "./explain.js";
import * as format from "./format.js";
import { MarketClock, Quote } from "./quotes.js";
import { Search } from "./search.js";
import { Table } from "./table.js";

const DEFAULTS = ["AAPL", "MSFT", "AMZN", "NVDA", "TSLA", "GOOG", "META", "SPY", "QQQ", "IBM"];
const ENOUGH = 5; // of the defaults; with fewer the busiest symbols fill the list
const LONGEST = 200; // symbols in the list: what one request of REST takes with ease
const STORAGE = "fabric.watchlist";
const TICK_MS = 500;
const ASK_AGAIN_MS = 15_000;

const element = (id) => document.getElementById(id);
const quotes = new Map();
const clock = new MarketClock();
let order = [];
let updates = 0;
let rate = 0;
let painting = false;
let connectionState = { name: "connecting" };

// REST

async function ask(path, parameters = {}) {
  const url = new URL(path, location.href);
  Object.entries(parameters).forEach(([name, value]) => url.searchParams.set(name, value));
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
  return response.json();
}

const askQuotes = (symbols) => ask("quotes", { symbols: symbols.join(",") });

/** Ask for what these symbols are now; whatever fails will be asked again later. */
async function refresh(symbols) {
  if (symbols.length === 0) return;
  const { quotes: answers, missing } = await askQuotes(symbols).catch(() => ({ quotes: [], missing: [] }));
  clock.learn(answers);
  const now = performance.now();
  for (const answer of answers) quotes.get(answer.symbol)?.takeAnswer(answer, now);
  for (const { symbol, code } of missing) {
    const quote = quotes.get(symbol);
    if (quote && !quote.seen) quote.problem = code;
  }
  symbols.forEach((symbol) => table.changed(symbol));
  schedulePaint();
}

// The watchlist

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

/** The usual names, or what this market has instead. */
async function choose() {
  const { quotes: known } = await askQuotes(DEFAULTS);
  const chosen = known.map((answer) => answer.symbol);
  if (chosen.length >= ENOUGH) return chosen;
  const { symbols } = await ask("symbols", { order: "busiest", limit: DEFAULTS.length });
  return [...new Set([...chosen, ...symbols])].slice(0, DEFAULTS.length);
}

async function firstList() {
  for (;;) {
    const chosen = await choose().catch(() => []);
    if (order.length) return; // the user was quicker
    if (chosen.length) return watch(chosen);
    showEmpty("Waiting for the first quotes");
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

function watch(symbols) {
  const fresh = [...new Set(symbols)].filter((symbol) => !quotes.has(symbol)).slice(0, LONGEST - order.length);
  fresh.forEach((symbol) => quotes.set(symbol, new Quote(symbol)));
  order.push(...fresh);
  rearrange();
  connection.add(fresh);
  refresh(fresh);
}

function unwatch(symbol) {
  quotes.delete(symbol);
  order = order.filter((other) => other !== symbol);
  rearrange();
  connection.remove([symbol]);
  save();
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

// The stream

function receive(messages) {
  const now = performance.now();
  for (const message of messages) {
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
  requestAnimationFrame((now) => {
    painting = false;
    table.paint(now);
  });
}

// Connection and time

const CONNECTION_TEXTS = { connecting: "Connecting", live: "Live", waiting: "Reconnecting" };

function showConnection(state) {
  const changed = state.name !== connectionState.name;
  connectionState = state;
  element("connection").dataset.state = state.name;
  table.setConnected(state.name === "live");
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
  const text = name === "waiting" && seconds > 1 ? `Retry in ${seconds} s` : CONNECTION_TEXTS[name];
  if (element("connection-text").textContent !== text) element("connection-text").textContent = text;
}

function tick() {
  rate = rate * 0.6 + updates * (1000 / TICK_MS) * 0.4;
  updates = 0;
  element("rate").textContent = connectionState.name === "live" ? format.rate(rate) : format.NOTHING;
  writeConnection();
  if (document.visibilityState === "visible") table.tick(performance.now(), clock);
}

async function showTopology() {
  const { venues, gateway, symbols } = await ask("topology");
  venues.forEach(({ code, name }) => table.venues.set(code, name));
  const names = venues.map(({ name }) => name).join(", ");
  element("source").textContent = `Best bid and offer of ${names} · ${format.rate(symbols)} symbols · gateway ${gateway}`;
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
  onOpen: (symbol) => explain.open(symbol),
});
const connection = new Connection("stream", { onState: showConnection, onMessages: receive });
new Search({
  form: element("search"),
  input: element("query"),
  list: element("results"),
  find: (prefix, limit) => ask("symbols", { prefix, limit }),
  isWatched: (symbol) => quotes.has(symbol),
  onChoose(symbol) {
    watch([symbol]);
    save();
    table.focus(symbol);
  },
});

connection.open();
const stored = load();
if (stored) watch(stored);
if (!stored) firstList();
showTopology().catch(() => {});
setInterval(tick, TICK_MS);
setInterval(() => refresh(order), ASK_AGAIN_MS);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => table.tick(performance.now(), clock));
