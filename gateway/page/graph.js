// The topology as a drawing: columns from the exchanges to the doors, a box for each node, a line for each link.

import * as format from "./format.js";

const SLOW_MS = 200; // a latency that is told rather than the lag
const COLUMNS = ["exchange", "feed", "processor", "writer", "gateway"];
const TITLES = { exchange: "Exchanges", feed: "Feeds", processor: "Processors", writer: "Stores", gateway: "Gateways" };
const PLACED = { cache: "writer", history: "writer" };
const BOX = { width: 158, height: 42, gap: 10, column: 228, top: 28 };
const SVG = "http://www.w3.org/2000/svg";

export class Graph {
  /** `svg` is drawn in; `about` says in words what the box under the pointer or the focus is. */
  constructor(svg, about) {
    this.svg = svg;
    this.about = about;
    this.shape = "";
    this.boxes = new Map();
    this.lines = new Map();
    this.chosen = null;
    svg.addEventListener("pointerover", (event) => this.choose(event.target.closest("[data-node]")));
    svg.addEventListener("focusin", (event) => this.choose(event.target.closest("[data-node]")));
    svg.addEventListener("pointerleave", () => this.choose(null));
  }

  show(nodes, links) {
    const shape = JSON.stringify([nodes.map(({ name, role }) => [name, role]), links.map(({ from, to }) => [from, to])]);
    if (shape !== this.shape) this.arrange(nodes, links);
    this.shape = shape;
    this.nodes = new Map(nodes.map((node) => [node.name, node]));
    nodes.forEach((node) => this.paint(node));
    links.forEach((link) => this.paintLine(link));
    this.tell();
  }

  arrange(nodes, links) {
    this.svg.replaceChildren();
    this.boxes.clear();
    this.lines.clear();
    const column = (node) => COLUMNS.indexOf(PLACED[node.role] ?? node.role);
    const used = COLUMNS.map((_, place) => nodes.filter((node) => column(node) === place)).filter((group) => group.length);
    const tallest = Math.max(...used.map((group) => group.length));
    const height = BOX.top + tallest * (BOX.height + BOX.gap);
    const width = (used.length - 1) * BOX.column + BOX.width;
    this.svg.setAttribute("viewBox", `-2 0 ${width + 4} ${height}`);
    this.svg.style.maxWidth = `${width * 1.1}px`; // the words of a small topology are no larger than those of a large one
    const back = this.svg.appendChild(node("g", { class: "lines" }));
    used.forEach((group, x) => {
      const title = this.svg.appendChild(node("text", { x: x * BOX.column, y: 14, class: "column" }));
      title.textContent = TITLES[COLUMNS[column(group[0])]];
      const step = (height - BOX.top) / group.length;
      group.forEach((one, y) => this.boxes.set(one.name, this.box(one, x * BOX.column, BOX.top + step * (y + 0.5) - BOX.height / 2)));
    });
    for (const link of links) {
      const [from, to] = [this.boxes.get(link.from), this.boxes.get(link.to)];
      if (!from || !to) continue;
      const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
      const bend = Math.max(24, (x2 - x1) / 2);
      const line = back.appendChild(node("path", { d: x2 > x1 ? `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` : `M${from.x} ${y1}C${from.x - 24} ${y1} ${from.x - 24} ${y2} ${to.x} ${y2}` }));
      this.lines.set(`${link.from}>${link.to}`, line);
    }
  }

  box({ name }, x, y) {
    const group = node("g", { class: "node", transform: `translate(${x} ${y})`, tabindex: 0, role: "img" });
    group.dataset.node = name;
    group.append(node("rect", { width: BOX.width, height: BOX.height, rx: 9 }), node("circle", { cx: 14, cy: 15, r: 4 }));
    const title = group.appendChild(node("text", { x: 25, y: 19, class: "name" }));
    title.textContent = name.length > 18 ? `${name.slice(0, 17)}…` : name;
    const detail = group.appendChild(node("text", { x: 25, y: 34, class: "detail" }));
    this.svg.append(group);
    return { group, detail, x, y };
  }

  paint(one) {
    const box = this.boxes.get(one.name);
    if (!box) return;
    box.group.dataset.health = one.health ?? "ok";
    box.group.dataset.state = one.state ?? "";
    const parts = one.state && one.state !== "ready" ? [one.state] : [];
    if (one.rate != null) parts.push(`${format.compact(one.rate)}/s`);
    const p99 = one.latency?.p99_ms;
    if (one.lag && !(p99 >= SLOW_MS)) parts.push(`lag ${format.compact(one.lag)}`);
    if (p99 != null && parts.length < 2) parts.push(`p99 ${format.latency(p99)}`);
    const text = parts.join(" · ");
    if (box.detail.textContent !== text) box.detail.textContent = text;
    box.group.setAttribute("aria-label", `${one.name}: ${one.state || "no state"}${text ? `, ${text}` : ""}`);
  }

  paintLine(link) {
    const line = this.lines.get(`${link.from}>${link.to}`);
    if (!line) return;
    line.dataset.health = link.up === false ? "alarm" : link.health ?? "ok";
    line.dataset.up = link.up === false ? "no" : "yes";
    line.style.strokeWidth = `${1 + Math.min(4, Math.log10(1 + (link.rate ?? 0)))}px`;
    line.dataset.chosen = this.chosen && (link.from === this.chosen || link.to === this.chosen) ? "yes" : "no";
  }

  choose(element) {
    this.chosen = element?.dataset.node ?? null;
    this.svg.classList.toggle("choosing", this.chosen != null);
    for (const [key, line] of this.lines) {
      line.dataset.chosen = this.chosen && key.split(">").includes(this.chosen) ? "yes" : "no";
    }
    this.tell();
  }

  tell() {
    const one = this.nodes?.get(this.chosen);
    const words = one
      ? [
          one.name, one.role, one.why || one.state, one.letters && `symbols ${one.letters}`, one.rate != null && `${format.size(one.rate)} ${one.rate_of ?? "messages"} a second`,
          one.lag != null && `${format.size(one.lag)} behind`, one.latency?.p50_ms != null && `p50 ${format.latency(one.latency.p50_ms)}, p99 ${format.latency(one.latency.p99_ms)}`,
          one.cpu_percent != null && `${Math.round(one.cpu_percent)} % of a core`, one.rss_bytes != null && `${Math.round(one.rss_bytes / 2 ** 20)} MB`, one.restarts && `${one.restarts} restarts`,
        ].filter(Boolean).join(" · ")
      : "Point at a node, tap it or move to it with Tab to see its numbers";
    if (this.about.textContent !== words) this.about.textContent = words;
  }
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}
