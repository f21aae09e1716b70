export { go, here, type Place } from "./routes.svelte";
