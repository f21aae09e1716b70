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
window.addEventListener("hashchange", () => (place = read()));

export const here = {
  get view(): string {
    return place.view;
  },
  get id(): string | null {
    return place.id;
  },
  get query(): URLSearchParams {
    return place.query;
  },
};

/** Go to a place: `go("#/library?star=1")`. `replace` leaves no step for the back button. */
export function go(hash: string, { replace = false } = {}): void {
  if (replace) {
    window.history.replaceState(null, "", hash);
    place = read();
  } else {
    window.location.hash = hash;
    place = read();
  }
}
