// Addresses for <img>: the API's own, or, where a key is needed, which <img> cannot send, bytes fetched with it.

import { address, bytes } from "./index";
import { keyOf } from "./key.svelte";

export interface Source {
  readonly url: string | null;
}

const kept = new Map<string, Promise<string>>();
const MOST = 400; // object addresses that are kept

/** The source of a picture for <img>: call it in a component's script, and use `.url`, which is null until it is there.
 * Without a key it is there at once. */
export function source(path: () => string | null): Source {
  let url = $state<string | null>(null);
  $effect.pre(() => {
    const wanted = path();
    if (wanted === null) {
      url = null;
    } else if (!keyOf() || !wanted.startsWith("/")) {
      url = wanted.startsWith("/") ? address(wanted) : wanted;
    } else {
      let current = true;
      url = null;
      void object(wanted).then(
        (found) => {
          if (current) url = found;
        },
        () => undefined,
      );
      return () => {
        current = false;
      };
    }
    return undefined;
  });
  return {
    get url() {
      return url;
    },
  };
}

function object(path: string): Promise<string> {
  let found = kept.get(path);
  if (found === undefined) {
    found = bytes(path).then((blob) => URL.createObjectURL(blob));
    found.catch(() => kept.delete(path));
  }
  kept.delete(path);
  kept.set(path, found); // the newest stands last
  if (kept.size > MOST) {
    const [oldest, old] = kept.entries().next().value as [string, Promise<string>];
    kept.delete(oldest);
    void old.then((url) => URL.revokeObjectURL(url)).catch(() => undefined);
  }
  return found;
}
