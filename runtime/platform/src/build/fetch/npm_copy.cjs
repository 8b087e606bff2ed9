// Copies what `npm ci` needs of the app into the folder that this runs in: the two files, the `package.json` of its
// workspaces, and archives of its own. What is missing is for npm to say.
const fs = require("fs");
const path = require("path");

const here = process.cwd();
const copy = (file) => {
  const target = path.join(here, file);
  if (!target.startsWith(here + "/")) return;
  try {
    const source = path.join("/build", file);
    if (!fs.statSync(source).isFile()) return;
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.copyFileSync(source, target);
  } catch {}
};

copy("package.json");
copy("package-lock.json");
const lock = JSON.parse(fs.readFileSync("package-lock.json", "utf8"));
for (const [place, found] of Object.entries(lock.packages ?? {})) {
  if (!place.split("/").includes("node_modules")) copy(place + "/package.json");
  const from = String(found?.resolved ?? "");
  // Nothing else: a copied `.npmrc` would be read.
  if (from.startsWith("file:") && /\.(tgz|tar|tar\.gz)$/.test(from)) copy(from.slice("file:".length));
}
