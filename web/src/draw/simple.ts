// A simple page made of a set-up: what is fixed, and the few things that are left to choose. It is all in its address, so
// that it can be given to a friend who uses the same server.

import type { DrawRequest, JobBody, Model } from "../api";
import { exactJson, readJson } from "../api/json";

export const CHOICES = ["shape", "count", "seed", "negative"] as const;
export type Choice = (typeof CHOICES)[number];

export interface Simple {
  title: string;
  /** Shown in the empty field. */
  example: string;
  /** Put behind what is written, such as ", as a woodcut". */
  behind: string;
  choices: Choice[];
  model: string;
  request: Partial<DrawRequest>;
  front: { dynamic?: boolean; styles?: string[] };
}

export interface Chosen {
  words: string;
  negative: string;
  count: number;
  size: [number, number] | null;
  seed: number | bigint | null;
}

const MOST = 8000; // characters of an address

/** What a page is made of, without what is chosen on it. Pictures that a job draws from belong to whoever made it. */
export function simpleOf(body: JobBody, told: Pick<Simple, "title" | "behind" | "choices">): Simple {
  const { prompt, seed: _seed, num_images: _count, source: _source, mask: _mask, ...rest } = body.request;
  const request: Partial<DrawRequest> = { ...rest };
  if (body.assets && Object.keys(body.assets).length > 0) delete request.controls;
  return {
    ...told,
    example: prompt ?? "",
    model: body.model ?? "",
    request,
    front: (body.front ?? {}) as Simple["front"],
  };
}

/** As it stands in an address. */
export function written(simple: Simple): string {
  const bytes = new TextEncoder().encode(exactJson(simple));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}

/** Out of an address; null for what is none. What a stranger put there is data: the server looks at the request. */
export function read(text: string | null): Simple | null {
  if (!text || text.length > MOST) return null;
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) =>
      sign.charCodeAt(0),
    );
    const found = readJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as Record<
      string,
      unknown
    > | null;
    if (found === null || typeof found !== "object") return null;
    const { title, example, behind, choices, model, request, front } = found;
    const areTexts = [title, example, behind, model].every((one) => typeof one === "string");
    if (!areTexts || !Array.isArray(choices) || !isPlain(request) || !isPlain(front)) return null;
    return {
      ...(found as unknown as Simple),
      choices: CHOICES.filter((one) => choices.includes(one)),
    };
  } catch {
    return null;
  }
}

const isPlain = (value: unknown): boolean =>
  value !== null && typeof value === "object" && !Array.isArray(value);

/** The job of what was chosen. */
export function jobOf(simple: Simple, chosen: Chosen): JobBody {
  const { negative_prompt: own, ...rest } = simple.request;
  const request: Record<string, unknown> = { ...rest, prompt: `${chosen.words.trim()}${simple.behind}` };
  const negative = simple.choices.includes("negative") ? chosen.negative.trim() : own;
  if (negative) request["negative_prompt"] = negative;
  if (chosen.count !== 1) request["num_images"] = chosen.count;
  if (chosen.size) [request["width"], request["height"]] = chosen.size;
  if (chosen.seed !== null) request["seed"] = chosen.seed;
  return { model: simple.model, request: request as DrawRequest, front: simple.front };
}

/** Width and height that it draws with until others are chosen. */
export const sizeOf = (simple: Simple, model: Pick<Model, "defaults">): [number, number] => [
  simple.request.width ?? model.defaults.width,
  simple.request.height ?? model.defaults.height,
];
