// Text into the page, only where it differs: what is written anew is laid out and painted anew.

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
