// What can be wished of a picture that is there: again, larger, more like it. Each is a job as the API takes it.

import { api, data, type Job, type JobBody, type Model, type Picture } from "../api";
import { fitted } from "../state/form.svelte";

const LIKE = 0.6; // of the steps are drawn anew: the same subject, another picture

type Front = NonNullable<JobBody["front"]>;

/** The same with a new seed. */
export function again(job: Job): JobBody {
  return { ...same(job), request: { ...job.request, seed: null, first_index: 0 } as JobBody["request"] };
}

/** The same picture at twice the size. How much is drawn anew depends on the model: one of small pictures is out of its
 * depth beyond its own size, so that it may only smooth what was enlarged. */
export async function larger(job: Job, picture: Picture, isSmall: boolean): Promise<JobBody> {
  const strength = isSmall ? 0.05 : 0.35;
  if (job.assets["image"] !== undefined) {
    const body = await from(job, picture, strength);
    body.request = { ...body.request, width: 2 * picture.width, height: 2 * picture.height, num_images: 1 };
    return body;
  }
  const before = job.request.hires?.scale ?? (job.request.hires ? 2 : 1);
  const hires = { ...job.request.hires, width: null, height: null, scale: 2 * before, strength };
  return {
    ...same(job),
    request: {
      ...job.request,
      hires,
      seed: picture.seed,
      first_index: (job.request.first_index ?? 0) + picture.index, // which of the noises of its seed
      num_images: 1,
    } as JobBody["request"],
  };
}

/** Four more like a picture: drawn from it with new noise, at the size that the model draws best. */
export async function like(
  job: Job,
  picture: Picture,
  model: Pick<Model, "defaults"> | undefined,
): Promise<JobBody> {
  const body = await from(job, picture, LIKE);
  const [width, height] = model ? bestSize(picture, model) : [picture.width, picture.height];
  body.request = { ...body.request, seed: null, num_images: 4, width, height };
  return body;
}

/** The size of a picture, or, of one that was enlarged, that of its shape with the area of the model's own size. */
export function bestSize(
  picture: { width: number; height: number },
  model: Pick<Model, "defaults">,
): [number, number] {
  const area = model.defaults.width * model.defaults.height;
  const factor = Math.sqrt(area / (picture.width * picture.height));
  if (factor > 0.8) return [picture.width, picture.height];
  return [fitted(factor * picture.width, model), fitted(factor * picture.height, model)];
}

async function from(job: Job, picture: Picture, strength: number): Promise<JobBody> {
  const asset = await data(api.POST("/v1/images/{id}/asset", { params: { path: { id: picture.id } } }));
  const request = { ...job.request, hires: null, mask: undefined, variation: undefined, first_index: 0 };
  return {
    ...same(job),
    assets: { ...controls(job), image: asset.id },
    request: { ...request, source: { strength } } as JobBody["request"],
  };
}

const controls = (job: Job): Record<string, string> =>
  Object.fromEntries(Object.entries(job.assets).filter(([role]) => role.startsWith("hint:")));

const same = (job: Job): Omit<JobBody, "request"> => ({
  model: job.model,
  assets: job.assets,
  front: job.front as Front,
});
