import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { readEvents } from '../examples/recipes/fetch-client.ts'
import { runScript } from './helpers/script.ts'

const read = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')
const readme = read('README.md')

t.test('the example runs, and a client that leaves it comes back to the rest', async (t) => {
  const code = /<!-- test\/readme\.test\.ts .*-->\n```js\n([^]*?)```/.exec(readme)?.[1] ?? ''
  const plugin = new URL('../src/index.ts', import.meta.url).href
  const file = join(t.testdir(), 'server.mjs')
  await writeFile(file, code.replace("'fastify-resumable-sse'", `'${plugin}'`))
  const origin = await runScript(t, file, '0').firstLine
  t.match(await (await fetch(origin)).text(), "new EventSource('/count')")

  const counts: string[] = []
  let lastEventId = ''
  for await (const { event, data, id } of readEvents(`${origin}/count`)) {
    lastEventId = id ?? lastEventId
    if (event === 'count') counts.push(data)
    if (counts.length === 5) break
  }
  const rest = readEvents(`${origin}/count`, { headers: { 'last-event-id': lastEventId } })
  for await (const { event, data } of rest) if (event === 'count') counts.push(data)
  t.same(
    counts,
    Array.from({ length: 20 }, (_, index) => String(index + 1))
  )
})

t.test('every option is in the README', async (t) => {
  const names = [...read('src/options.ts').matchAll(/^ {2}(\w+)\??:/gm)].map(([, name]) => name)
  t.ok(names.length > 20)
  for (const name of new Set(names)) t.match(readme, `| \`${name}\` |`)
})

t.test('every error is in the README with its status, and no other', async (t) => {
  const errors = [...read('src/errors.ts').matchAll(/<'(FST_ERR_\w+)', (\d+)/g)].map(
    ([, code, status]) => `${code} ${status}`
  )
  const rows = [...readme.matchAll(/^\| `(FST_ERR_\w+)` \| (\d+) \|/gm)].map(([, code, status]) => `${code} ${status}`)
  t.ok(errors.length > 10)
  t.same(new Set(rows), new Set(errors))
  t.equal(rows.length, errors.length)
})

t.test('every link leads somewhere', async (t) => {
  const titles = [...readme.matchAll(/^#+ (.*)$/gm)].map(([, title = '']) => title.toLowerCase())
  const anchors = new Set(titles.map((title) => title.replaceAll(/[^\w -]/g, '').replaceAll(' ', '-')))
  for (const [, target = ''] of readme.matchAll(/\]\(([^)]+)\)/g)) {
    if (target.startsWith('#')) t.ok(anchors.has(target.slice(1)), target)
    else t.ok(existsSync(new URL(`../${target}`, import.meta.url)), target)
  }
})
