// From what is on the canvas to the job that is submitted.

import type { DrawRequest, JobBody, Model } from "../api";
import type { Sides } from "./frame";
import type { Size } from "./geometry";

export type Mode = "part" | "extend" | "whole" | "guide";

/** What the view remembers of how to draw. null: the model's own. */
export interface Settings {
  model: string;
  prompt: string;
  negative: string;
  num_steps: number | null;
  guidance_scale: number | null;
  seed: number | bigint | null;
  count: number;
  /** By the mode; null: what suits it. */
  strength: Record<Mode, number | null>;
  content: "original" | "fill" | "noise" | "nothing";
  /** Draw the masked part alone, at the model's size; null: where the picture is large. */
  close: boolean | null;
  padding: number;
  blur: number | null;
  /** What the picture was drawn with besides. */
  rest: Partial<DrawRequest>;
}

export const startSettings = (): Settings => ({
  model: "gesso-mini",
  prompt: "",
  negative: "",
  num_steps: null,
  guidance_scale: null,
  seed: null,
  count: 4,
  strength: { part: null, extend: null, whole: null, guide: null },
  content: "original",
  close: null,
  padding: 32,
  blur: null,
  rest: {},
});

/** The small built-in model puts whole objects into borders unless little is redrawn (docs/pictures-in.md). */
const SMALL = new Set(["gesso-mini"]);

export function usualStrength(mode: Mode, family: string): number {
  if (mode === "extend") return SMALL.has(family) ? 0.3 : 0.75;
  if (mode === "guide") return 1; // the hint alone says where things are
  return mode === "part" ? 0.75 : 0.6;
}

export function usualBlur(mode: Mode): number {
  return mode === "extend" ? 8 : 6;
}

type Defaults = Pick<Model["defaults"], "width" | "height" | "size_multiple">;

/** The size at which a large picture is drawn: as many pixels as the model is used to, in the picture's shape. null: the
 * picture's own size will do. */
export function drawnSize(size: Size, defaults: Defaults): Size | null {
  const native = defaults.width * defaults.height;
  if (size.width * size.height <= 2 * native) return null;
  const scale = Math.sqrt(native / (size.width * size.height));
  const multiple = defaults.size_multiple;
  const side = (length: number): number => Math.max(Math.round((length * scale) / multiple), 1) * multiple;
  return { width: side(size.width), height: side(size.height) };
}

/** Whether the masked part is drawn alone: asked for, or the picture is larger than what the model is used to. */
export function isClose(settings: Settings, size: Size, defaults: Defaults): boolean {
  return settings.close ?? drawnSize(size, defaults) !== null;
}

export interface Steering {
  model: string;
  weight: number;
  start: number;
  end: number;
}

export interface Plan {
  mode: Mode;
  settings: Settings;
  model: Model;
  /** Of the picture that is sent. */
  size: Size;
  borders: Sides | null;
  /** Ids of uploads. */
  assets: { image: string; mask: string | null; hints: string[] };
  controls: Steering[];
}

export function bodyOf(plan: Plan): JobBody {
  const { settings, mode, model } = plan;
  const request: Record<string, unknown> = { ...settings.rest, prompt: settings.prompt };
  if (settings.negative !== "") request["negative_prompt"] = settings.negative;
  if (settings.num_steps !== null) request["num_steps"] = settings.num_steps;
  if (settings.guidance_scale !== null) request["guidance_scale"] = settings.guidance_scale;
  if (settings.seed !== null) request["seed"] = settings.seed;
  if (settings.count !== 1) request["num_images"] = settings.count;
  const source: Record<string, unknown> = {
    strength: settings.strength[mode] ?? usualStrength(mode, model.family),
  };
  const close = mode === "part" && isClose(settings, plan.size, model.defaults);
  const drawn = close || mode === "extend" ? null : drawnSize(plan.size, model.defaults);
  if (drawn !== null) Object.assign(request, drawn);
  if (mode === "extend") source["outpaint"] = plan.borders;
  if (mode === "part" || mode === "extend") {
    const mask: Record<string, unknown> = { blur: settings.blur ?? usualBlur(mode) };
    if (settings.content !== "original") mask["content"] = settings.content;
    if (close) Object.assign(mask, { area: "masked", padding: settings.padding });
    request["mask"] = mask;
  }
  if (["edit", "upscale"].includes(kindOf(model))) delete source["strength"];
  if (Object.keys(source).length > 0) request["source"] = source;
  if (plan.controls.length > 0) request["controls"] = plan.controls.map((one) => ({ ...one }));
  const assets: Record<string, string> = { image: plan.assets.image };
  if (mode === "part" && plan.assets.mask !== null) assets["mask"] = plan.assets.mask;
  plan.assets.hints.forEach((id, i) => (assets[`hint:${i}`] = id));
  return { model: settings.model, request: request as DrawRequest, assets };
}

function kindOf(model: Model): string {
  if (model.needs.includes("mask")) return "inpaint";
  return model.needs.includes("image") ? "edit" : "none";
}

/** The settings that a picture was drawn with, as far as they hold for a change of it. */
export function settingsOf(
  recipe: { request?: Partial<DrawRequest>; model?: string },
  known: (name: string) => boolean,
): Partial<Settings> {
  const request = recipe.request ?? {};
  const rest: Record<string, unknown> = {};
  for (const name of ["sampler", "schedule", "loras", "clip_skip", "preset", "conventions"] as const) {
    const value = request[name];
    const isPlain = value === null || value === undefined || (Array.isArray(value) && value.length === 0);
    if (!isPlain && !(name === "clip_skip" && value === 1) && !(name === "preset" && value === "gesso"))
      rest[name] = value;
  }
  if (rest["preset"] === undefined) delete rest["conventions"];
  const found: Partial<Settings> = { rest: rest as Partial<DrawRequest> };
  if (typeof request.prompt === "string") found.prompt = request.prompt;
  if (typeof request.negative_prompt === "string") found.negative = request.negative_prompt;
  if (typeof request.num_steps === "number") found.num_steps = request.num_steps;
  if (typeof request.guidance_scale === "number") found.guidance_scale = request.guidance_scale;
  if (recipe.model !== undefined && known(recipe.model)) found.model = recipe.model;
  return found;
}
