// Runs one ONNX file in ONNX Runtime Web under Node: node web.mjs FOLDER MODULES
// FOLDER holds model.onnx and feeds.json ({name: {type, dims, data}}); writes found.json of the same form.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, modules] = process.argv.slice(2);
const ort = await import(pathToFileURL(join(modules, "onnxruntime-web", "dist", "ort.node.min.mjs")).href);
ort.env.wasm.numThreads = 1;

const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(join(folder, "model.onnx"))));
const feeds = {};
for (const [name, { type, dims, data }] of Object.entries(JSON.parse(readFileSync(join(folder, "feeds.json"))))) {
  const values = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
  feeds[name] = new ort.Tensor(type, values, dims);
}
const found = {};
for (const [name, tensor] of Object.entries(await session.run(feeds))) {
  found[name] = { type: tensor.type, dims: tensor.dims, data: Array.from(tensor.data, Number) };
}
writeFileSync(join(folder, "found.json"), JSON.stringify(found));
