// The request that is being written. Each tab has its own; it survives a reload, and a new tab begins with the last one.

import type { DrawRequest, JobBody, Model } from "../api";
import { keep, kept } from "./store";

/** What a model draws with. They are kept for each model, so that they follow when another is chosen; null is the
 * model's own. */
export interface PerModel {
  width: number | null;
  height: number | null;
  num_steps: number | null;
  guidance_scale: number | null;
  sampler: string | null;
  schedule: string | null;
}

type Own = keyof PerModel | "prompt" | "negative_prompt" | "num_images" | "seed";
/** Everything of a request that has no field of its own in the form. */
export type Rest = Omit<Partial<DrawRequest>, Own | "schema" | "version">;

export interface Form extends PerModel {
  model: string;
  prompt: string;
  negative_prompt: string;
  num_images: number;
  /** null: a new one each time. */
  seed: number | bigint | null;
  rest: Rest;
  /** Role -> id of an uploaded picture: "image", "mask", "hint:0". */
  assets: Record<string, string>;
  dynamic: boolean;
  /** Names of styles to apply. */
  styles: string[];
  /** What other models draw with. */
  others: Record<string, PerModel>;
}

const PLACE = "gesso.form";
const VERSION = 1;
export const NO_SETTINGS: PerModel = {
  width: null,
  height: null,
  num_steps: null,
  guidance_scale: null,
  sampler: null,
  schedule: null,
};
const PER_MODEL = Object.keys(NO_SETTINGS) as (keyof PerModel)[];
const SIDES = ["source", "mask", "variation", "tiles", "conventions"] as const; // objects whose fields may all be null

const start = (): Form => ({
  model: "gesso-mini",
  prompt: "",
  negative_prompt: "",
  num_images: 4,
  seed: null,
  rest: {},
  assets: {},
  dynamic: false,
  styles: [],
  others: {},
  ...NO_SETTINGS,
});

interface Saved {
  version: number;
  form: Form;
}

function load(): Form {
  for (const store of ["tab", "local"] as const) {
    try {
      const saved = JSON.parse(kept(PLACE, store) ?? "null", revive) as Saved | null;
      if (saved?.version === VERSION) return { ...start(), ...saved.form };
    } catch {
      // what another version wrote
    }
  }
  return start();
}

const revive = (_: string, value: unknown): unknown =>
  value !== null && typeof value === "object" && "$big" in value ? BigInt(value.$big as string) : value;

const fields = $state<Form>(load());

export const form = {
  fields,

  /** Write the form down; the shell does so after each change. */
  keep(): void {
    const saved: Saved = { version: VERSION, form: $state.snapshot(fields) as Form };
    const text = JSON.stringify(saved, (_, value: unknown) =>
      typeof value === "bigint" ? { $big: value.toString() } : value,
    );
    keep(PLACE, text, "tab");
    keep(PLACE, text);
  },

  /** Choose another model: what was set for it before comes back, and what was set for the old one is kept. */
  choose(model: string): void {
    if (model === fields.model) return;
    fields.others[fields.model] = pick(fields);
    Object.assign(fields, NO_SETTINGS, fields.others[model] ?? {});
    fields.model = model;
  },

  /** Take over a request, or parts of one: from a picture, a card, another view. `whole`: what it does not name goes back
   * to the model's own, as for a picture that is to be drawn again. */
  use(
    request: Partial<DrawRequest>,
    {
      model,
      assets,
      whole = false,
    }: { model?: string; assets?: Record<string, string>; whole?: boolean } = {},
  ): void {
    if (model) form.choose(model);
    if (whole) {
      Object.assign(fields, NO_SETTINGS, {
        negative_prompt: "",
        seed: null,
        rest: {},
        assets: {},
        num_images: 1,
      });
    }
    const { schema: _schema, version: _version, ...all } = request;
    for (const [name, value] of Object.entries(all)) {
      if (name in NO_SETTINGS || ["prompt", "negative_prompt", "num_images", "seed"].includes(name)) {
        Object.assign(fields, {
          [name]: value ?? (name === "num_images" ? 1 : name.endsWith("prompt") ? "" : null),
        });
      } else {
        const plain = trimmed(name, value);
        if (plain === undefined) delete (fields.rest as Record<string, unknown>)[name];
        else (fields.rest as Record<string, unknown>)[name] = plain;
      }
    }
    if (assets) fields.assets = { ...fields.assets, ...assets };
  },

  /** Back to what the model draws with by itself; the prompt stays. */
  reset(): void {
    Object.assign(fields, NO_SETTINGS, {
      rest: {},
      assets: {},
      seed: null,
      num_images: 4,
      dynamic: false,
      styles: [],
    });
  },

  /** The request as it is submitted. */
  request(): DrawRequest {
    const own = $state.snapshot(fields) as Form;
    const request: Record<string, unknown> = { prompt: own.prompt, ...own.rest };
    if (own.negative_prompt) request["negative_prompt"] = own.negative_prompt;
    if (own.num_images !== 1) request["num_images"] = own.num_images;
    for (const name of [...PER_MODEL, "seed"] as const) if (own[name] !== null) request[name] = own[name];
    return request as DrawRequest;
  },

  /** The job as it is submitted. */
  job(): JobBody {
    const body: JobBody = { model: fields.model, request: form.request() };
    if (Object.keys(fields.assets).length > 0) body.assets = { ...fields.assets };
    const front: JobBody["front"] = {};
    if (fields.dynamic) front.dynamic = true;
    if (fields.styles.length > 0) front.styles = [...fields.styles];
    if (Object.keys(front).length > 0) body.front = front;
    return body;
  },
};

const pick = (all: PerModel): PerModel =>
  Object.fromEntries(PER_MODEL.map((name) => [name, all[name]])) as unknown as PerModel;

/** A part of a request without what says nothing; undefined where nothing is left. */
function trimmed(name: string, value: unknown): unknown {
  if (value === null || value === undefined) return undefined;
  if (Array.isArray(value)) return value.length > 0 ? value : undefined;
  if (typeof value === "object") {
    const left = Object.entries(value).filter(([, one]) => one !== null);
    const isSide = (SIDES as readonly string[]).includes(name);
    return left.length > 0 || !isSide ? Object.fromEntries(left) : undefined;
  }
  return name === "first_index" && value === 0 ? undefined : value;
}

/** A size that the model can draw, nearest to the one wanted. */
export function fitted(value: number, model: Pick<Model, "defaults">): number {
  const multiple = model.defaults.size_multiple;
  return Math.min(Math.max(Math.round(value / multiple) * multiple, multiple), 4096);
}
