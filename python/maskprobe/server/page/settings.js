// What the fields of the page say.

const $ = (id) => document.getElementById(id);
const THEME = "maskprobe.theme";

export function theme() {
  const field = $("theme");
  const use = () => (document.documentElement.dataset.theme = field.value);
  try {
    field.value = localStorage.getItem(THEME) ?? "";
  } catch {
    // storage is switched off
  }
  use();
  field.addEventListener("change", () => {
    use();
    try {
      localStorage.setItem(THEME, field.value);
    } catch {
      // it holds for this page
    }
  });
}

/** The fields of a request that are no messages. A seed is always named, so that a request can be repeated. */
export function sampling() {
  const seed = $("seed").value;
  return {
    model: $("model").value,
    temperature: $("temperature").valueAsNumber,
    max_tokens: $("max-tokens").valueAsNumber,
    seed: seed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] % 4294967295 : Number(seed),
  };
}

export function systemMessages() {
  const content = $("system").value.trim();
  return content ? [{ role: "system", content }] : [];
}

/** Keeps the closed settings' line up to date, and opens them where a field in them is wrong. */
export function watchSettings() {
  const summary = () => {
    const seed = $("seed").value;
    $("settings-summary").textContent = [
      $("system").value.trim() ? "a system prompt" : "no system prompt",
      `temperature ${$("temperature").value}`,
      `${$("max-tokens").value} tokens at most`,
      seed === "" ? "random seed" : `seed ${seed}`,
    ].join(", ");
  };
  $("settings").addEventListener("input", summary);
  $("settings").addEventListener("invalid", () => ($("settings").open = true), true);
  summary();
}

/** Writes the models into the picker and keeps the choice where it is still there. */
export function fillModels(models) {
  const field = $("model");
  const chosen = field.value;
  const options = models.map(({ id, status }) => {
    const option = document.createElement("option");
    option.value = id;
    option.textContent = status?.value === "loaded" ? id : `${id} (${status?.value ?? "not loaded"})`;
    return option;
  });
  const texts = (list) => [...list].map((option) => option.textContent).join("\n");
  if (texts(field.options) === texts(options)) return; // it may be open just now
  field.replaceChildren(...options);
  if (models.some((model) => model.id === chosen)) field.value = chosen;
}

/** One line about a model, of what the server says of it. */
export function modelLine(facts) {
  if (!facts) return "";
  if (facts.failure) return facts.failure;
  if (!facts.n_ctx) return "It is loaded with the first message.";
  const parts = [facts.description, `context of ${facts.n_ctx} tokens`];
  if (!facts.has_chat_template) parts.push("it has no chat template of its own and may not be made for chats");
  if (facts.note) parts.push(facts.note);
  return parts.filter(Boolean).join("; ");
}
