// Samples, a walk through latents and the score of a drawing, by the exported model beside this script.
import * as ort from "./ort.wasm.min.mjs"

const here = new URL("./", import.meta.url).href
ort.env.wasm.wasmPaths = here
ort.env.wasm.numThreads = 1 // more need headers that a plain server does not send
const SIDE = 8, SIZE = SIDE * SIDE, CLASSES = 10, DRAWS = 8, FRAMES = 24, COLUMNS = 12, ROWS = 2
const root = document.getElementById("flow")
const find = name => root.querySelector("." + name)
const status = find("status")

// --- Numbers -----------------------------------------------------------------------------------

// Standard normal numbers from a seed: a sum of counters, mixed (mulberry32), in pairs (Box and Muller).
function normal(count, seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return Float32Array.from({length: count}, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()))
}

function logMeanExp(values) {
  const largest = Math.max(...values)
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0) / values.length)
}

// --- The model -----------------------------------------------------------------------------------

async function loaded() {
  status.textContent = "Loading the model …"
  const json = async name => {
    const answer = await fetch(here + name)
    if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status})`)
    return answer.json()
  }
  const session = name => ort.InferenceSession.create(here + name)
  const [metadata, tests, decode, logProb] = await Promise.all([
    json("metadata.json"), json("tests.json"), session("decode.onnx"), session("log_prob.onnx"),
  ])
  status.textContent = ""
  return {metadata, tests, decode, logProb, latentSize: metadata.latent_shape.reduce((a, b) => a * b)}
}

// Loads once; after a failure, such as a lost connection, the next click tries again.
let loading = null
const load = () => (loading ??= loaded().catch(error => {
  loading = null
  throw error
}))

// Sessions take one call at a time.
let queue = Promise.resolve()
const inTurn = work => (queue = queue.then(work).catch(error => { status.textContent = `This did not work: ${error.message}` }))

async function decoded(model, latents, labels) {
  const count = labels.length
  const {images} = await model.decode.run({
    latents: new ort.Tensor("float32", latents, [count, ...model.metadata.latent_shape]),
    labels: new ort.Tensor("int32", Int32Array.from(labels), [count]),
  })
  return Array.from({length: count}, (_, i) => images.data.slice(i * SIZE, (i + 1) * SIZE))
}

// The bound given each digit, nats; the bits of each pixel given the most likely one.
async function scored(model, pixels) {
  const count = CLASSES * DRAWS, draws = normal(DRAWS * SIZE, 0), noise = new Float32Array(count * SIZE)
  for (let label = 0; label < CLASSES; label++) noise.set(draws, label * draws.length)
  const images = new Uint8Array(count * SIZE)
  for (let i = 0; i < count; i++) images.set(pixels, i * SIZE)
  const found = await model.logProb.run({
    images: new ort.Tensor("uint8", images, [count, SIDE, SIDE, 1]),
    noise: new ort.Tensor("float32", noise, [count, ...model.metadata.noise_shape]),
    labels: new ort.Tensor("int32", Int32Array.from({length: count}, (_, i) => Math.floor(i / DRAWS)), [count]),
  })
  const bounds = Array.from({length: CLASSES}, (_, i) => logMeanExp(found.log_prob.data.slice(i * DRAWS, (i + 1) * DRAWS)))
  const best = bounds.indexOf(Math.max(...bounds)), bits = new Float32Array(SIZE)
  const first = best * DRAWS * SIZE * 3
  for (let i = 0; i < DRAWS * SIZE * 3; i++) bits[Math.floor(i / 3) % SIZE] += found.position_bits.data[first + i] / DRAWS
  const total = logMeanExp(bounds)
  return {bitsPerDim: -total / SIZE / Math.log(2), classes: bounds.map(bound => Math.exp(bound - total) / CLASSES), bits}
}

// --- Pictures ------------------------------------------------------------------------------------

// Images of 8x8 values from 0 to 1, in rows, as black ink on white or the other way round on a dark page.
function paint(canvas, images, columns, gap = 1) {
  const cell = SIDE + gap, rows = Math.ceil(images.length / columns)
  canvas.width = columns * cell - gap
  canvas.height = rows * cell - gap
  const picture = new ImageData(canvas.width, canvas.height)
  images.forEach((image, i) => image.forEach((value, p) => {
    const x = (i % columns) * cell + (p % SIDE), y = Math.floor(i / columns) * cell + Math.floor(p / SIDE)
    picture.data.set([value * 255, value * 255, value * 255, 255], 4 * (y * canvas.width + x))
  }))
  canvas.getContext("2d").putImageData(picture, 0, 0)
}

const shades = pixels => Array.from(pixels, value => value / 16)

// --- Samples and the walk ------------------------------------------------------------------------

let seed = Number(new URLSearchParams(location.search).get("seed") ?? Date.now() % 1e6)
let frames = []

const sample = () => inTurn(async () => {
  const model = await load(), count = COLUMNS * ROWS, label = Number(find("label").value)
  const temperature = Number(find("temperature").value)
  const latents = normal(count * model.latentSize, seed++).map(z => z * temperature)
  const started = performance.now()
  const images = await decoded(model, latents, Array(count).fill(label))
  const each = (performance.now() - started) / count
  paint(find("samples"), images.map(shades), COLUMNS)
  find("time").textContent = `${count} images, ${each.toFixed(1)} ms each`
  root.dataset.milliseconds = each
  await walk(model, latents.slice(0, model.latentSize), latents.slice(model.latentSize, 2 * model.latentSize), label)
})

async function walk(model, from, to, label) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(from, to) / (Math.sqrt(dot(from, from) * dot(to, to)) || 1))))
  const latents = new Float32Array(FRAMES * from.length)
  for (let i = 0; i < FRAMES; i++) {
    const t = i / (FRAMES - 1), part = s => (angle < 1e-3 ? s : Math.sin(s * angle) / Math.sin(angle))
    latents.set(from.map((value, j) => part(1 - t) * value + part(t) * to[j]), i * from.length)
  }
  frames = await decoded(model, latents, Array(FRAMES).fill(label))
  find("frame").disabled = false
  showFrame()
}

const showFrame = () => frames.length && paint(find("walk"), [shades(frames[find("frame").value])], 1)

// --- The drawing ---------------------------------------------------------------------------------

let drawing = new Float32Array(SIZE)

function show() {
  paint(find("draw"), [shades(drawing)], 1)
}

// Ink where the pointer is, less towards a pixel's distance from it.
function ink(event) {
  const box = find("draw").getBoundingClientRect()
  const x = ((event.clientX - box.left) / box.width) * SIDE - 0.5, y = ((event.clientY - box.top) / box.height) * SIDE - 0.5
  drawing = drawing.map((value, p) => {
    const distance = Math.hypot((p % SIDE) - x, Math.floor(p / SIDE) - y)
    return Math.max(value, Math.min(16, Math.max(0, 16 * (1.35 - distance))))
  })
  show()
}

let waiting = false
function score() {
  if (waiting) return
  waiting = true
  inTurn(async () => {
    waiting = false
    const model = await load()
    const {bitsPerDim, classes, bits} = await scored(model, Uint8Array.from(drawing, Math.round))
    const more = model.tests.bits_per_dim.filter(other => other > bitsPerDim).length / model.tests.bits_per_dim.length
    find("score").textContent = `${bitsPerDim.toFixed(3)} bits/dim; ${Math.round(100 * more)} of 100 test digits take more.`
    const largest = Math.max(...bits), least = Math.min(0, ...bits)
    paint(find("bits"), [Array.from(bits, value => (value - least) / (largest - least || 1))], 1)
    find("classes").replaceChildren(...classes.map((share, digit) => {
      const row = document.createElement("div")
      row.textContent = digit
      const bar = row.appendChild(document.createElement("span"))
      bar.style.setProperty("--share", share)
      bar.title = share.toFixed(3)
      return row
    }))
    root.dataset.bitsPerDim = bitsPerDim
  })
}

function replaceDrawing(pixels) {
  drawing = Float32Array.from(pixels)
  show()
  score()
}

let test = 0
find("test").onclick = () => inTurn(async () => {
  const {tests} = await load()
  replaceDrawing(tests.images[test++ % tests.images.length])
})
find("mirror").onclick = () => replaceDrawing(drawing.map((_, p) => drawing[p - (p % SIDE) + SIDE - 1 - (p % SIDE)]))
find("clear").onclick = () => replaceDrawing(new Float32Array(SIZE))
find("draw").onpointerdown = event => {
  find("draw").setPointerCapture(event.pointerId)
  ink(event)
}
find("draw").onpointermove = event => event.buttons && ink(event)
find("draw").onpointerup = score

for (let digit = 0; digit < CLASSES; digit++) find("label").add(new Option(digit, digit))
find("temperature").oninput = event => { event.target.nextElementSibling.value = event.target.value }
find("frame").oninput = showFrame
find("sample").onclick = sample
find("label").onchange = () => loading && sample()
find("temperature").onchange = () => loading && sample()
status.textContent = ""
for (const name of ["samples", "walk", "bits"]) paint(find(name), Array.from({length: name == "samples" ? COLUMNS * ROWS : 1}, () => Array(SIZE).fill(0)), name == "samples" ? COLUMNS : 1)
show()
root.dataset.ready = true
