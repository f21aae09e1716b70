export { go, here, placeOf } from "./routes.svelte";
