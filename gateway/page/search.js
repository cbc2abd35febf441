// The search field: a combobox over every symbol that the gateway knows.

const WAIT_MS = 100;
const RESULTS = 8;

export class Search {
  /** `find(prefix, limit)` promises `{symbols, total}`; `isWatched(symbol)`; `onChoose(symbol)`. */
  constructor({ form, input, list, find, isWatched, onChoose }) {
    this.input = input;
    this.list = list;
    this.find = find;
    this.isWatched = isWatched;
    this.onChoose = onChoose;
    this.asked = 0;
    this.timer = 0;
    this.active = -1;
    input.addEventListener("input", () => this.typed());
    input.addEventListener("focus", () => this.typed());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.pressed(event));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    list.addEventListener("click", (event) => this.choose(event.target.closest("[role=option]")));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input")) return;
      event.preventDefault();
      input.focus();
    });
  }

  get prefix() {
    return this.input.value.trim().toUpperCase();
  }

  typed() {
    clearTimeout(this.timer);
    if (!this.prefix) return this.close();
    this.timer = setTimeout(() => this.ask(), WAIT_MS);
  }

  async ask() {
    const number = ++this.asked;
    const { prefix } = this;
    const found = await this.find(prefix, RESULTS).catch(() => null);
    if (number === this.asked && prefix === this.prefix && document.activeElement === this.input) this.show(found);
    return found;
  }

  /** Enter: the chosen one, else the first that fits. */
  async submit() {
    const options = this.options();
    if (options.length) return this.choose(options[Math.max(0, this.active)]);
    clearTimeout(this.timer);
    if (!this.prefix) return;
    const found = await this.ask();
    if (found?.symbols.length) this.take(found.symbols[0]);
  }

  show(found) {
    this.list.replaceChildren();
    this.active = -1;
    if (found?.symbols.length) {
      found.symbols.forEach((symbol, place) => this.list.append(this.option(symbol, place)));
      if (found.total > found.symbols.length) this.list.append(this.note(`${found.total - found.symbols.length} more`));
      this.activate(0);
    } else {
      this.list.append(this.note(found ? `No symbol begins with ${this.prefix}` : "The gateway does not answer"));
    }
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
  }

  option(symbol, place) {
    const option = document.createElement("li");
    option.id = `result-${place}`;
    option.role = "option";
    option.dataset.symbol = symbol;
    const typed = document.createElement("b");
    typed.textContent = symbol.slice(0, this.prefix.length);
    option.append(typed, symbol.slice(this.prefix.length));
    if (this.isWatched(symbol)) {
      const mark = document.createElement("span");
      mark.className = "watched";
      mark.textContent = "watched";
      option.append(mark);
    }
    return option;
  }

  note(text) {
    const note = document.createElement("li");
    note.className = "note";
    note.role = "presentation";
    note.textContent = text;
    return note;
  }

  options() {
    return [...this.list.querySelectorAll("[role=option]")];
  }

  activate(place) {
    const options = this.options();
    this.active = (place + options.length) % options.length;
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === this.active)));
    this.input.setAttribute("aria-activedescendant", options[this.active].id);
  }

  pressed(event) {
    if (event.key === "Escape") {
      if (this.list.hidden) this.input.blur();
      this.input.value = "";
      this.close();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && this.options().length) {
      event.preventDefault();
      this.activate(this.active + (event.key === "ArrowDown" ? 1 : -1));
    }
  }

  choose(option) {
    if (option) this.take(option.dataset.symbol);
  }

  take(symbol) {
    this.input.value = "";
    this.close();
    this.onChoose(symbol);
  }

  close() {
    clearTimeout(this.timer);
    this.asked++;
    this.list.hidden = true;
    this.list.replaceChildren();
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
