import { beforeEach, expect, test, vi } from "vitest";

async function fresh() {
  vi.resetModules();
  return (await import("./form.svelte")).form;
}

beforeEach(() => {
  sessionStorage.clear();
  localStorage.clear();
});

test("settings follow the model: each has its own, and they come back with it", async () => {
  const form = await fresh();
  form.fields.prompt = "a cat";
  form.fields.num_steps = 8;
  form.choose("large");
  expect(form.fields.num_steps).toBeNull();
  expect(form.fields.prompt).toBe("a cat");
  form.fields.width = 1024;
  form.choose("gesso-mini");
  expect([form.fields.num_steps, form.fields.width]).toEqual([8, null]);
  form.choose("large");
  expect([form.fields.num_steps, form.fields.width]).toEqual([null, 1024]);
});

test("a reload gives back what was written, also a seed of 64 bits", async () => {
  const form = await fresh();
  form.use({ prompt: "a cat", seed: 2n ** 64n - 1n } as never);
  form.keep();
  const again = await fresh();
  expect(again.fields.prompt).toBe("a cat");
  expect(again.fields.seed).toBe(2n ** 64n - 1n);
});

test("two tabs do not overwrite each other, and a new one begins with the last", async () => {
  const one = await fresh();
  one.fields.prompt = "first";
  one.keep();
  const ownOfFirst = sessionStorage.getItem("gesso.form") as string;
  sessionStorage.clear(); // another tab
  const two = await fresh();
  expect(two.fields.prompt).toBe("first");
  two.fields.prompt = "second";
  two.keep();
  sessionStorage.setItem("gesso.form", ownOfFirst); // the first, reloaded
  expect((await fresh()).fields.prompt).toBe("first");
});

test("what another version wrote is no reason to fail", async () => {
  localStorage.setItem("gesso.form", '{"version": 0, "form": {"prompt": 5}}');
  sessionStorage.setItem("gesso.form", "no JSON");
  expect((await fresh()).fields.prompt).toBe("");
});

test("a whole request of the API becomes a form, and the form the same request without what says nothing", async () => {
  const form = await fresh();
  form.fields.num_steps = 99;
  form.fields.rest.tiling = "x";
  form.use(
    {
      prompt: "a cat",
      negative_prompt: "",
      width: 512,
      height: null,
      num_images: 1,
      first_index: 0,
      seed: 7,
      num_steps: null,
      loras: [],
      tiling: null,
      hires: { scale: 2, strength: null } as never,
      source: { image: null, strength: null } as never,
      variation: { seed: 3, strength: 0.2 } as never,
    },
    { model: "large", whole: true },
  );
  expect(form.job()).toEqual({
    model: "large",
    request: {
      prompt: "a cat",
      width: 512,
      seed: 7,
      hires: { scale: 2 },
      variation: { seed: 3, strength: 0.2 },
    },
  });
});

test("reset keeps the words and gives the settings back to the model", async () => {
  const form = await fresh();
  form.use({ prompt: "a cat", num_steps: 5, seed: 3, clip_skip: 2 });
  form.reset();
  expect(form.request()).toEqual({ prompt: "a cat", num_images: 4 });
});
