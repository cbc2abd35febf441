// The second view: every node and link as a live graph, latency by hop over time, and what alert rules watch.

import uPlot from "./vendor/uplot-1.6.32.js";
import * as format from "./format.js";
import { Graph } from "./graph.js";
import { write } from "./write.js";

const EVERY_MS = 1_000;
const KEPT = 300; // points of a line
const HOPS = { exchange: "Exchange", feed: "Feed", processor: "Processor", gateway: "Gateway", total: "Feed to client" };
const PERCENTILES = ["p50_ms", "p99_ms", "p999_ms"];
const STATES = { ready: "All is well", starting: "Starting", degraded: "Degraded", failed: "Failed", stopping: "Stopping" };
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3, notation: "compact" });

export class Operations {
  /** `ask(path, parameters)` promises JSON. */
  constructor({ element, ask }) {
    this.element = element;
    this.ask = ask;
    this.find = (selector) => element.querySelector(selector);
    this.graph = new Graph(this.find(".graph svg"), this.find(".graph .about"));
    this.plots = new Map(); // hop -> its chart
    this.series = { t: [], hops: {} };
    this.visible = false;
    this.timer = 0;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
    new ResizeObserver(() => this.resize()).observe(this.find(".hops"));
  }

  setVisible(visible) {
    this.visible = visible;
    clearTimeout(this.timer);
    if (visible) this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    if (document.visibilityState === "visible") {
      const since = this.series.t[this.series.t.length - 1];
      try {
        this.show(await this.ask("v1/ops", since ? { since } : {}));
      } catch {
        this.showLess(await this.ask("topology").catch(() => null));
      }
    }
    if (this.visible) this.timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  show(answer) {
    const away = answer.nodes.filter((node) => node.health !== "ok");
    const beyond = answer.thresholds.filter((threshold) => threshold.health === "alarm").map((threshold) => threshold.title);
    const working = answer.state === "ready" && beyond.length; // every node is, and yet it is not well
    this.state(working ? "degraded" : answer.state, working ? `Beyond its threshold: ${beyond.join(", ")}` : (STATES[answer.state] ?? answer.state), [
      `${answer.nodes.length} nodes`, `up ${format.span(answer.uptime_s)}`, ...away.slice(0, 3).map((node) => `${node.name}: ${node.why || node.state}`),
    ]);
    this.find(".gauges").hidden = this.find(".latency").hidden = false;
    this.gauges(answer.thresholds, answer);
    this.graph.show(answer.nodes, answer.links);
    this.append(answer.series);
    this.hops(answer.hops);
  }

  /** Without the operators' data: what every gateway knows of those it reads. */
  showLess(topology) {
    this.find(".gauges").hidden = this.find(".latency").hidden = true;
    if (!topology) return this.state("failed", "The gateway does not answer", []);
    const nodes = topology.nodes.map((node) => ({ ...node, state: node.up === false ? "down" : "", health: node.up === false ? "alarm" : "ok" }));
    const links = topology.nodes.flatMap((node) => (node.reads ?? []).map((from) => ({ from, to: node.name, kind: "bus", health: "ok" })));
    const down = nodes.filter((node) => node.up === false).map((node) => `${node.name} is down`);
    this.state(down.length ? "degraded" : "unknown", down.length ? "Degraded" : "Rates and latencies are not served here", [`${nodes.length} nodes`, ...down]);
    this.graph.show(nodes, links);
  }

  state(name, title, facts) {
    const head = this.find(".state");
    head.dataset.state = name;
    write(head.querySelector("h2"), title);
    write(head.querySelector("p"), facts.join(" · "));
  }

  gauges(thresholds, answer) {
    const list = this.find(".gauges");
    thresholds.forEach((threshold, place) => {
      const item = list.children[place] ?? list.appendChild(gauge());
      const [title, value, track, limit] = item.children;
      const { value: found, alarm, unit, worse } = threshold;
      item.dataset.health = found == null ? "none" : threshold.health;
      item.dataset.name = threshold.name;
      write(title, threshold.title);
      write(value, figure(found, unit));
      const share = found == null ? 0 : worse === "above" ? found / alarm : (100 - found) / Math.max(100 - alarm, 1e-9);
      track.firstElementChild.style.width = `${Math.min(100, share * 100)}%`;
      const more = threshold.name === "connections" && answer.connections ? ` · ${format.size(answer.connections.open)} open` : "";
      write(limit, `${worse === "above" ? "under" : "over"} ${short.format(alarm)} ${unit}${more}`);
    });
  }

  /** New points of the lines, at the end of those that are there. */
  append(series) {
    if (!series?.t) return;
    const last = this.series.t[this.series.t.length - 1] ?? -Infinity;
    const fresh = series.t.map((time, place) => [time, place]).filter(([time]) => time > last);
    for (const [time] of fresh) this.series.t.push(time);
    for (const hop of Object.keys(HOPS)) {
      const kept = (this.series.hops[hop] ??= Object.fromEntries(PERCENTILES.map((name) => [name, []])));
      for (const name of PERCENTILES) {
        for (const [, place] of fresh) kept[name].push(series.hops?.[hop]?.[name]?.[place] ?? null);
        kept[name].splice(0, kept[name].length - KEPT);
      }
    }
    this.series.t.splice(0, this.series.t.length - KEPT);
  }

  hops(hops) {
    const list = this.find(".hops");
    for (const hop of hops) {
      if (!HOPS[hop.name]) continue;
      const plot = this.plots.get(hop.name) ?? this.plot(list, hop);
      plot.item.dataset.health = hop.health;
      PERCENTILES.forEach((name, place) => write(plot.values[place], format.latency(hop[name])));
      plot.chart.setData(this.data(hop.name));
    }
  }

  data(hop) {
    return [this.series.t, ...PERCENTILES.map((name) => this.series.hops[hop]?.[name] ?? [])];
  }

  plot(list, hop) {
    const item = document.createElement("li");
    item.dataset.hop = hop.name;
    const head = document.createElement("header");
    const title = document.createElement("h3");
    title.textContent = HOPS[hop.name];
    title.title = `${hop.from} to ${hop.to}`;
    const values = ["p50", "p99", "p99.9"].map((name) => {
      const part = document.createElement("span");
      part.className = name.replace(".", "");
      const value = document.createElement("b");
      part.append(`${name} `, value);
      return [part, value];
    });
    head.append(title, ...values.map(([part]) => part));
    const place = document.createElement("div");
    item.append(head, place);
    list.append(item);
    const made = { item, values: values.map(([, value]) => value), place };
    made.chart = this.chart(place, hop.name);
    this.plots.set(hop.name, made);
    return made;
  }

  chart(place, hop) {
    const [axis, grid] = [style("--faint"), style("--line")];
    const lines = [["p50", "--calm"], ["p99", "--accent"], ["p99.9", "--warn"]];
    const scale = { stroke: axis, font: `11px ${style("--figures")}`, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    return new uPlot(
      {
        width: Math.max(120, place.clientWidth), height: 132, legend: { show: false }, cursor: { y: false, points: { size: 6 } },
        scales: { x: { time: true }, y: { distr: 3, log: 10, range: (_, low, high) => [Math.max(1e-3, 10 ** Math.floor(Math.log10(low || 1))), 10 ** Math.ceil(Math.log10(high || 10))] } },
        axes: [
          { ...scale, grid: { show: false }, space: 90, size: 26, values: (_, times) => times.map((time) => new Date(time * 1000).toTimeString().slice(0, 8)) },
          { ...scale, size: 52, filter: (_, values) => values.map((value) => (isPowerOfTen(value) ? value : null)), values: (_, values) => values.map((value) => (value == null ? "" : format.latency(value))) },
        ],
        series: [{}, ...lines.map(([label, colour]) => ({ label, stroke: style(colour), width: 1.5, points: { show: false }, spanGaps: false }))],
      },
      this.data(hop),
      place,
    );
  }

  resize() {
    this.plots.forEach(({ chart, place }) => place.clientWidth && chart.width !== place.clientWidth && chart.setSize({ width: place.clientWidth, height: 132 }));
  }

  restyle() {
    this.plots.forEach((plot, hop) => {
      plot.chart.destroy();
      plot.chart = this.chart(plot.place, hop);
    });
  }
}

/** A threshold's value in its unit; longer units stand below it. */
function figure(value, unit) {
  if (unit === "ms") return format.latency(value);
  return value == null ? format.NOTHING : short.format(value) + (unit.length < 3 ? ` ${unit}` : "");
}

function isPowerOfTen(value) {
  const power = Math.log10(value);
  return Math.abs(power - Math.round(power)) < 1e-6;
}

function gauge() {
  const item = document.createElement("li");
  const track = document.createElement("i");
  track.append(document.createElement("i"));
  item.append(document.createElement("h3"), document.createElement("b"), track, document.createElement("p"));
  return item;
}
