// Images: what the page shows and saves. A frame is {blob, bitmap}.



export async function frameOf(blob) {
  return { blob, bitmap: await createImageBitmap(blob) };
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** Show a bitmap in a canvas, at its own size; small images keep their pixels. */
export function paint(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.classList.toggle("smooth", Math.max(bitmap.width, bitmap.height) > 320);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function pixels(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height);
}

/** Where two images differ: the second in grey, changed pixels in magenta, the brighter the more. */
export function difference(canvas, before, after) {
  paint(canvas, after);
  const { width, height } = canvas, a = pixels(before, width, height).data, image = pixels(after, width, height), b = image.data;
  for (let i = 0; i < b.length; i += 4) {
    const off = Math.max(Math.abs(a[i] - b[i]), Math.abs(a[i + 1] - b[i + 1]), Math.abs(a[i + 2] - b[i + 2]));
    const grey = 150 + 0.35 * (0.3 * b[i] + 0.59 * b[i + 1] + 0.11 * b[i + 2]), share = Math.min(1, off / 90);
    b[i] = grey + (222 - grey) * share;
    b[i + 1] = grey + (24 - grey) * share;
    b[i + 2] = grey + (132 - grey) * share;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A grid of recognition weights over an image. */
export function heat(canvas, bitmap, grid) {
  paint(canvas, bitmap);
  const pen = canvas.getContext("2d"), rows = grid.length, columns = grid[0].length, most = Math.max(1e-9, ...grid.flat());
  const w = canvas.width / columns, h = canvas.height / rows;
  pen.fillStyle = "rgba(12, 12, 32, .55)";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  grid.forEach((row, y) => row.forEach((value, x) => {
    if (value <= 0) return;
    pen.save();
    pen.globalAlpha = 0.25 + 0.75 * (value / most);
    pen.drawImage(bitmap, x * w, y * h, w, h, x * w, y * h, w, h);
    pen.strokeStyle = "#ffb020";
    pen.strokeRect(x * w + 0.5, y * h + 0.5, w - 1, h - 1);
    pen.restore();
  }));
}

const SIDE = 240, GAP = 16, LINE = 20;

function lines(pen, text, width) {
  const rows = [""];
  for (const word of text.split(" ")) {
    const longer = `${rows.at(-1)} ${word}`.trim();
    if (pen.measureText(longer).width > width && rows.at(-1)) rows.push(word);
    else rows[rows.length - 1] = longer;
  }
  return rows;
}

/** A film strip with captions, as a PNG. */
export async function strip(frames) {
  const measure = new OffscreenCanvas(1, 1).getContext("2d"), font = "15px system-ui, sans-serif";
  measure.font = font;
  const captions = frames.map((frame) => lines(measure, frame.caption, SIDE));
  const height = SIDE + 3 * GAP + LINE * Math.max(...captions.map((c) => c.length));
  const canvas = new OffscreenCanvas(GAP + frames.length * (SIDE + GAP), height), pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, height);
  pen.font = font;
  pen.textBaseline = "top";
  frames.forEach((frame, i) => {
    const { bitmap } = frame, scale = SIDE / Math.max(bitmap.width, bitmap.height), left = GAP + i * (SIDE + GAP);
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(bitmap, left, GAP, bitmap.width * scale, bitmap.height * scale);
    pen.fillStyle = "#1c1d26";
    captions[i].forEach((text, row) => pen.fillText(text, left, SIDE + 2 * GAP + row * LINE));
  });
  return canvas.convertToBlob({ type: "image/png" });
}

/** An animated GIF; each frame has the 256 colours it uses most, others become the nearest of them. */
export function gif(frames, hundredths = 90) {
  const size = Math.min(384, Math.max(frames[0].bitmap.width, frames[0].bitmap.height, 288));
  const scale = size / Math.max(frames[0].bitmap.width, frames[0].bitmap.height);
  const width = Math.round(frames[0].bitmap.width * scale), height = Math.round(frames[0].bitmap.height * scale), out = [];
  const word = (n) => out.push(n & 255, n >> 8);
  out.push(...new TextEncoder().encode("GIF89a"));
  word(width); word(height); out.push(0, 0, 0);
  out.push(33, 255, 11, ...new TextEncoder().encode("NETSCAPE2.0"), 3, 1, 0, 0, 0); // for ever
  for (const { bitmap } of frames) {
    const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(bitmap, 0, 0, width, height);
    const { palette, indices } = quantized(pen.getImageData(0, 0, width, height).data);
    out.push(33, 249, 4, 4); word(hundredths); out.push(0, 0, 44);
    word(0); word(0); word(width); word(height); out.push(0x87, ...palette, 8);
    const data = packed(indices);
    for (let i = 0; i < data.length; i += 255) { const part = data.slice(i, i + 255); out.push(part.length, ...part); }
    out.push(0);
  }
  out.push(59);
  return new Blob([new Uint8Array(out)], { type: "image/gif" });
}

function quantized(data) {
  const counts = new Map(), keys = new Uint32Array(data.length / 4);
  for (let i = 0; i < keys.length; i++) {
    const key = ((data[4 * i] & 248) << 16) | ((data[4 * i + 1] & 248) << 8) | (data[4 * i + 2] & 248);
    keys[i] = key;
    const known = counts.get(key);
    if (known) { known[0]++; for (let c = 0; c < 3; c++) known[c + 1] += data[4 * i + c]; }
    else counts.set(key, [1, data[4 * i], data[4 * i + 1], data[4 * i + 2]]);
  }
  const kept = [...counts].sort((a, b) => b[1][0] - a[1][0]).slice(0, 256).map(([, [n, ...rgb]]) => rgb.map((v) => Math.round(v / n)));
  const palette = new Uint8Array(768);
  kept.forEach((rgb, i) => palette.set(rgb, 3 * i));
  const nearest = new Map();
  const index = (key) => {
    if (!nearest.has(key)) {
      const [n, ...sum] = counts.get(key), rgb = sum.map((v) => v / n);
      let best = 0, least = Infinity;
      kept.forEach((k, i) => { const d = (k[0] - rgb[0]) ** 2 + (k[1] - rgb[1]) ** 2 + (k[2] - rgb[2]) ** 2; if (d < least) { least = d; best = i; } });
      nearest.set(key, best);
    }
    return nearest.get(key);
  };
  return { palette, indices: Array.from(keys, index) };
}

/** LZW, as GIF has it: codes of 9 to 12 bits, the low bits first. */
function packed(indices) {
  const bytes = [];
  let table = new Map(), next = 258, bits = 9, held = 0, count = 0;
  const put = (code) => { held |= code << count; count += bits; while (count >= 8) { bytes.push(held & 255); held >>>= 8; count -= 8; } };
  put(256);
  let prefix = indices[0];
  for (let i = 1; i < indices.length; i++) {
    const key = prefix * 256 + indices[i], known = table.get(key);
    if (known !== undefined) { prefix = known; continue; }
    put(prefix);
    if (next < 4096) { table.set(key, next++); if (next > 1 << bits && bits < 12) bits++; }
    else { put(256); table = new Map(); next = 258; bits = 9; }
    prefix = indices[i];
  }
  put(prefix); put(257);
  if (count) bytes.push(held & 255);
  return bytes;
}
