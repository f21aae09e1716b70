// Where the page is: the part of the address behind #, so that a reload and the back button lead where they should.
//
//   #/draw  #/change  #/change/ID  #/library  #/picture/ID  #/models  #/queue  #/grids  (each with ?name=value)

export interface Place {
  view: string;
  id: string | null;
  query: URLSearchParams;
}

function read(): Place {
  const [path = "", query = ""] = window.location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", id = ""] = path.split("/");
  return {
    view: decode(view) || "draw",
    id: id ? decode(id) : null,
    query: new URLSearchParams(query),
  };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

let place = $state.raw<Place>(read());
const places = new Map<string, Own>();

/** What a view knows of the address: the last that was its own. The address changes before a view goes, and what is still
 * under way in it then must not take the next view's for its own. */
class Own {
  #place = $state.raw<Place>({ view: "", id: null, query: new URLSearchParams() });

  get id(): string | null {
    return this.#place.id;
  }
  get query(): URLSearchParams {
    return this.#place.query;
  }
  set(next: Place): void {
    this.#place = next;
  }
}

/** The addresses of one view. */
export function placeOf(view: string): Own {
  let own = places.get(view);
  if (!own) places.set(view, (own = new Own()));
  return own;
}

function arrive(): void {
  place = read();
  placeOf(place.view).set(place);
}

arrive();
window.addEventListener("hashchange", arrive);

/** The address as it is; a view has its own as `id` and `query`. */
export const here = {
  get view(): string {
    return place.view;
  },
};

/** Go to a place: `go("#/library?star=1")`. `replace` leaves no step for the back button. */
export function go(hash: string, { replace = false } = {}): void {
  if (replace) window.history.replaceState(null, "", hash);
  else window.location.hash = hash;
  arrive();
}
