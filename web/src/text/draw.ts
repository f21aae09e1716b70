// Words of the view Draw.

import { catalogue } from "./index.svelte";

export const draw = catalogue(
  {
    title: "Draw",
    failed: (prompt: string) => `“${prompt}” could not be drawn`,
    ready: (count: number) => (count === 1 ? "The picture is ready" : `${count} pictures are ready`),
    useSettings: "Look at its settings",
  },
  {
    title: "Zeichnen",
    failed: (prompt) => `„${prompt}“ konnte nicht gezeichnet werden`,
    ready: (count) => (count === 1 ? "Das Bild ist fertig" : `${count} Bilder sind fertig`),
    useSettings: "Seine Einstellungen ansehen",
  },
);
