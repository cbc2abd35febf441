// Numbers, ages and names as the page writes them (pure).

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const fine = new Intl.NumberFormat("en-US", { minimumFractionDigits: 4, maximumFractionDigits: 4 });

const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });

export const NOTHING = "–";

/** Two digits after the point, or four where the price is below one or has a fraction of a cent. */
export function price(value) {
  if (value == null) return NOTHING;
  return isWholeCents(value) && value >= 1 ? cents.format(value) : fine.format(value);
}

export function size(value) {
  return value == null ? "" : whole.format(value);
}

export function rate(value) {
  return whole.format(value);
}

/** The spread in the currency, negative when the sides are crossed. */
export function spread(bid, ask) {
  if (bid == null || ask == null) return NOTHING;
  const width = ask - bid;
  return (isWholeCents(width) ? cents : fine).format(width).replace("-", "−");
}

export function basisPoints(bid, ask) {
  if (bid == null || ask == null || bid + ask <= 0) return "";
  return `${(((ask - bid) / (bid + ask)) * 20000).toFixed(1)} basis points`;
}

/** An age in the largest unit that says enough. */
export function age(milliseconds) {
  if (milliseconds == null) return NOTHING;
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** 12.3K */
export function compact(value) {
  return value == null ? NOTHING : short.format(value);
}

/** A duration in milliseconds in the unit that is read at a glance: 0.41 ms, 53.5 ms, 1.2 s. */
export function latency(milliseconds) {
  if (milliseconds == null) return NOTHING;
  return milliseconds < 1000 ? `${short.format(milliseconds)} ms` : `${short.format(milliseconds / 1000)} s`;
}

/** A time in seconds as 12 s, 4 min, 3 h or 2 d. */
export function span(seconds) {
  return age(seconds == null ? null : Math.max(1, seconds) * 1000);
}

/** But for the dust that a difference of two binary fractions has. */
function isWholeCents(value) {
  return Math.abs(value * 100 - Math.round(value * 100)) < 1e-6;
}
