// What is known of one picture, and taking its settings over.

import { api, data, type DrawRequest } from "../api";
import type { components } from "../api/schema";
import { form } from "../state/form.svelte";
import { fields } from "../text/fields";
import { server } from "../state/server.svelte";
import type { Settings } from "./differences";

export type Metadata = components["schemas"]["PictureMetadata"];
export type Recall = "all" | "seed" | "prompt" | "size";

/** Everything about a picture. Throws `Problem`. */
export const metadataOf = (id: string): Promise<Metadata> =>
  data(api.GET("/v1/images/{id}/metadata", { params: { path: { id } } }));

/** The settings of a picture, for people: those of its recipe, else those of its job. */
export const settingsOf = (metadata: Metadata): Settings =>
  (metadata.settings ?? metadata.submitted) as Settings;

/** Which of the noises of its seed a picture was drawn from, counted from 1: with the seed, that decides the noise. */
export function numberOf(metadata: Metadata): number {
  const [own, submitted] = [metadata.settings, metadata.submitted] as Partial<DrawRequest>[];
  return 1 + (own ? (own.first_index ?? 0) : (submitted?.first_index ?? 0) + metadata.picture.index);
}

/** The settings of a picture as they are compared with those of another. */
export function comparedOf(metadata: Metadata): Settings {
  const { model, seed } = metadata.library;
  return { model, ...settingsOf(metadata), seed: String(seed), number: numberOf(metadata) };
}

/** Take settings over into the form. Returns the model's name where the server has it no more. */
export function recall(metadata: Metadata, what: Recall): string | null {
  const settings = settingsOf(metadata) as Partial<DrawRequest>;
  const { library, assets } = metadata;
  if (what === "seed") form.use({ seed: (settings.seed ?? library.seed) as number });
  else if (what === "prompt")
    form.use({ prompt: settings.prompt ?? "", negative_prompt: settings.negative_prompt ?? "" });
  else if (what === "size")
    form.use({ width: settings.width ?? library.width, height: settings.height ?? library.height });
  else {
    const isHere = server.model(library.model) !== undefined;
    form.use(settings, { ...(isHere ? { model: library.model } : {}), assets, whole: true });
    return isHere ? null : library.model;
  }
  return null;
}

/** What a field of a request is called, by its path such as "loras[0].weight". */
export function labelOf(path: string): string {
  const named = (part: string): string => {
    const [, name = part, at] = /^(\w+)\[(\d+)\]$/.exec(part) ?? [];
    const label = name in fields ? fields[name as keyof typeof fields] : name.replaceAll("_", " ");
    return at === undefined ? label : `${label} ${Number(at) + 1}`;
  };
  return path.split(".").map(named).join(" · ");
}
