// The mid of the last minutes as a small line: each value holds until the next.
//
// A line is drawn in every row twice a second. What the page knows of sizes and colours is kept here: to ask it for them would
// have it lay out everything anew, once a row.

const PAD = 3;
const SHORTEST_MS = 15_000; // a line that has just begun does not fill the width at once

const COLOURS = { up: "--up", down: "--down", flat: "--soft", stale: "--faint" };
const colours = {};
const dark = matchMedia("(prefers-color-scheme: dark)");
const sizes = new WeakMap(); // canvas -> [width, height] in the page's pixels
const observer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) sizes.set(target, [contentRect.width, contentRect.height]);
});

function learnColours() {
  const style = getComputedStyle(document.documentElement);
  for (const [kind, name] of Object.entries(COLOURS)) colours[kind] = style.getPropertyValue(name).trim();
}

learnColours();
dark.addEventListener("change", learnColours);

/** Know the size of a canvas from now on; until then nothing is drawn. */
export function follow(canvas) {
  observer.observe(canvas);
}

/** Draw `trend` ([ms, value], oldest first) so that `now` is the right edge; `kind` is up, down, flat or stale. */
export function draw(canvas, trend, now, kind) {
  const [width, height] = sizes.get(canvas) ?? [0, 0];
  if (!width || !height) return;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  if (trend.length < 2) return;

  const values = trend.map((point) => point[1]);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || Math.abs(high) * 1e-4 || 1;
  const middle = (high + low) / 2;
  const shown = Math.max(SHORTEST_MS, now - trend[0][0]);
  const x = (time) => width - PAD - ((now - time) / shown) * (width - 2 * PAD);
  const y = (value) => height / 2 - ((value - middle) / span) * (height - 2 * PAD);

  context.beginPath();
  context.moveTo(x(trend[0][0]), y(values[0]));
  for (let i = 1; i < trend.length; i++) {
    context.lineTo(x(trend[i][0]), y(values[i - 1]));
    context.lineTo(x(trend[i][0]), y(values[i]));
  }
  const end = width - PAD;
  const endY = y(values[values.length - 1]);
  context.lineTo(end, endY);

  const colour = colours[kind];
  context.strokeStyle = colour;
  context.lineWidth = 1.4;
  context.lineJoin = "round";
  context.stroke();

  context.lineTo(end, height);
  context.lineTo(x(trend[0][0]), height);
  context.closePath();
  context.globalAlpha = 0.09;
  context.fillStyle = colour;
  context.fill();
  context.globalAlpha = 1;
  context.beginPath();
  context.arc(end, endY, 2.2, 0, 2 * Math.PI);
  context.fill();
}
