// Runs one ONNX file in ONNX Runtime Web under Node: node web.mjs FOLDER MODULES
// FOLDER holds model.onnx and feeds.json ({name: {type, dims, data}}); writes found.json of the same form.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { setFlagsFromString } from "node:v8";

// One run each: compiling WebAssembly well takes longer than running it once compiled badly.
setFlagsFromString("--liftoff-only");

const [folder, modules] = process.argv.slice(2);
const ort = await import(pathToFileURL(join(modules, "onnxruntime-web", "dist", "ort.node.min.mjs")).href);
ort.env.wasm.numThreads = 1;
// Half precision as its bits.
const ARRAYS = {
  bool: Uint8Array,
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
};

const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(join(folder, "model.onnx"))));
const feeds = {};
for (const [name, { type, dims, data }] of Object.entries(JSON.parse(readFileSync(join(folder, "feeds.json"))))) {
  const values = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : ARRAYS[type].from(data);
  feeds[name] = new ort.Tensor(type, values, dims);
}
function bits({ type, data }) {
  return type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
}
const found = {};
for (const [name, tensor] of Object.entries(await session.run(feeds))) {
  found[name] = { type: tensor.type, dims: tensor.dims, data: Array.from(bits(tensor), Number) };
}
writeFileSync(join(folder, "found.json"), JSON.stringify(found));
