import { buildSync } from 'esbuild'
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('../../', import.meta.url)
const files = new Map<string, string>()
process.on('exit', () => {
  for (const file of files.values()) rmSync(file, { force: true })
})

/**
 * A program of `fixtures` as one file of JavaScript. Tests start dozens of processes, and one that compiles TypeScript and
 * looks for its modules takes four times as long to begin.
 */
export function builtFixture(name: string): string {
  let file = files.get(name)
  if (file === undefined) {
    file = fileURLToPath(new URL(`.tap/built/${name}-${process.pid}.cjs`, root))
    buildSync({
      absWorkingDir: fileURLToPath(root),
      entryPoints: [`test/fixtures/${name}.ts`],
      outfile: file,
      bundle: true,
      platform: 'node'
    })
    files.set(name, file)
  }
  return file
}
