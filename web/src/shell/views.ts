// The views, each loaded when it is first gone to.

import type { Component } from "svelte";
import type { IconName } from "../parts/Icon.svelte";

/** What a view may ask for: `id`, the part of the address behind its name, and `query`, what stands behind its `?`. */
interface Given {
  id: string | null;
  query: URLSearchParams;
}
export type View = Component<Given>;
/** A view asks for what it needs of that. */
type Some =
  View | Component<Pick<Given, "id">> | Component<Pick<Given, "query">> | Component<Record<string, never>>;

export const VIEWS: Record<string, () => Promise<{ default: Some }>> = {
  draw: () => import("../draw/Draw.svelte"),
  simple: () => import("../draw/Simple.svelte"),
  change: () => import("../canvas/Change.svelte"),
  library: () => import("../gallery/Library.svelte"),
  picture: () => import("../gallery/Picture.svelte"),
  models: () => import("../know/Models.svelte"),
  grids: () => import("../know/Grids.svelte"),
  history: () => import("../know/History.svelte"),
  queue: () => import("../queue/Queue.svelte"),
};

export type Name = "draw" | "change" | "library" | "models" | "grids" | "queue";

export const NAVIGATION: { name: Name; icon: IconName }[] = [
  { name: "draw", icon: "draw" },
  { name: "change", icon: "change" },
  { name: "library", icon: "library" },
  { name: "models", icon: "models" },
  { name: "grids", icon: "grids" },
  { name: "queue", icon: "queue" },
];
