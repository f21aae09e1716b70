// The views, each loaded when it is first gone to. A view gets `id`, the part of the address behind its name.

import type { Component } from "svelte";
import type { IconName } from "../parts/Icon.svelte";

/** A view that has no parts takes no `id`. */
type View = Component<{ id: string | null }> | Component<Record<string, never>>;

export const VIEWS: Record<string, () => Promise<{ default: View }>> = {
  draw: () => import("../draw/Draw.svelte"),
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
