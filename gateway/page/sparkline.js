// The mid of the last minutes as a small line: each value holds until the next.

const PAD = 3;
const SHORTEST_MS = 15_000; // a line that has just begun does not fill the width at once

/** Draw `trend` ([ms, value], oldest first) so that `now` is the right edge. Colours come from the canvas's own style. */
export function draw(canvas, trend, now) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
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

  const colour = getComputedStyle(canvas).color;
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
