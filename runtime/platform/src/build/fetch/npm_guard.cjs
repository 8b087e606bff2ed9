// Before npm: nothing that it loads can start a program, because a fetch runs none of an app's code, and has the network.
const children = require("child_process");

for (const name of ["exec", "execFile", "execFileSync", "execSync", "fork", "spawn", "spawnSync"]) {
  children[name] = (program) => {
    throw new Error(`package-lock.json: npm would have to run \`${program}\`, and a fetch runs no programs: only \
packages of registries are fetched, and nothing from repositories`);
  };
}
require("module").syncBuiltinESMExports();
