// Who asks: a gateway with keys answers 401, and then this asks for the key. It is kept while the tab is open and goes
// out in a header, never in an address; the stream, whose handshake has no headers of ours, gets a ticket that opens it once.

const STORED = "fabric.key";
const KEY_HEADER = "X-API-Key";

export class Door {
  constructor({ dialog }) {
    this.dialog = dialog;
    this.field = dialog.querySelector("input");
    this.note = dialog.querySelector(".note");
    this.key = readKey();
    this.asking = null; // one question, however many requests wait for its answer
    dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to see behind it
  }

  /** As the browser's fetch, with the key; whatever is refused for want of one waits until there is one. */
  async fetch(url, options = {}) {
    for (;;) {
      const { key } = this;
      const response = await fetch(url, { ...options, headers: key ? { [KEY_HEADER]: key } : {} });
      if (response.status !== 401) return response;
      if (key === this.key) await this.ask(); // else another request has asked meanwhile
    }
  }

  /** What opens the stream once; null where nobody needs to say who he is. */
  async ticket() {
    if (!this.key) return null;
    const response = await this.fetch(new URL("v1/ticket", location.href), { method: "POST" });
    if (!response.ok) throw new Error(`ticket: ${response.status}`);
    return (await response.json()).ticket;
  }

  ask() {
    this.asking ??= new Promise((resolve) => {
      this.note.textContent = this.key ? "This key is not one that is let in." : "";
      this.field.value = "";
      const form = this.dialog.querySelector("form");
      form.onsubmit = (event) => {
        event.preventDefault();
        const key = this.field.value.trim();
        if (!/^[\x21-\x7e]+$/.test(key)) return; // what a header cannot carry is no key
        this.key = key;
        storeKey(key);
        this.dialog.close();
        this.asking = null;
        resolve();
      };
      this.dialog.showModal();
      this.field.focus();
    });
    return this.asking;
  }
}

function readKey() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}

function storeKey(key) {
  try {
    sessionStorage.setItem(STORED, key);
  } catch {
    // then it lasts as long as the page
  }
}
