import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { hasRedis } from '../helpers/redis-server.ts'
import { runScript } from '../helpers/script.ts'
import { takenPort } from '../helpers/taken-port.ts'

const demo = fileURLToPath(new URL('../../examples/cluster/server.ts', import.meta.url))

t.test('without redis-server it says how to install one', async (t) => {
  const { code, errors } = await runScript(t, demo, '0', { PATH: t.testdir() }).exited
  t.equal(code, 1)
  t.match(errors, 'There is no redis-server on this machine.')
  t.match(errors, 'sudo apt-get install redis-server')
  t.match(errors, 'brew install redis')
  t.notMatch(errors, /\n\s+at /, 'no stack')
})

t.test('a port that is taken is named, and nothing stays behind', async (t) => {
  if (!hasRedis(t)) return
  const port = await takenPort(t)
  // `exited` waits until nobody holds the pipes any more, and the instances do.
  const { code, errors } = await runScript(t, demo, String(port)).exited
  t.equal(code, 1)
  t.match(errors, `Port ${port} on 127.0.0.1 is already in use. Choose another one, for example: PORT=`)
  t.match(errors, 'npm run demo:cluster')
})

t.test('SIGTERM ends the demo and everything that it has started, also while a killed instance is away', async (t) => {
  if (!hasRedis(t)) return
  const { child, firstLine, exited } = runScript(t, demo, '0')
  const line = await firstLine
  const ports = await portsOf(line)
  for (const port of ports) t.ok(await isTaken(port))
  await fetch(`${addressIn(line)}/streams/text`, { method: 'POST' })
  const killed = await fetch(`${addressIn(line)}/streams/text/kill-producing`, { method: 'POST' })
  t.same(await killed.json(), { killed: 'A' })
  child.kill('SIGTERM')
  t.same(await exited, { code: 0, errors: '' })
  for (const port of ports) t.notOk(await isTaken(port))
})

t.test('a demo that is killed itself leaves nothing behind', async (t) => {
  if (!hasRedis(t)) return
  const { child, firstLine, exited } = runScript(t, demo, '0')
  const [, redisPort = 0] = await portsOf(await firstLine)
  child.kill('SIGKILL')
  await exited
  while (await isTaken(redisPort));
  t.pass('Redis is gone')
})

t.test('a SIGTERM to npm, whose shell does not pass it on, ends the demo too', async (t) => {
  if (!hasRedis(t)) return
  const npm = spawn('npm', ['run', 'demo:cluster'], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => npm.kill('SIGKILL'))
  const ports = await portsOf(await addressLine(npm))
  npm.kill('SIGTERM')
  // `close` comes when nobody holds the pipe any more: npm, its shell, the front and the instances are gone.
  await once(npm, 'close')
  for (const port of ports) t.notOk(await isTaken(port))
})

async function addressLine(child: ChildProcess): Promise<string> {
  if (child.stdout === null) throw new Error('nothing to read')
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith('The demo is at')) return line
  }
  throw new Error('it ended before it printed its address')
}

function addressIn(line: string): string {
  return /http:\/\/127\.0\.0\.1:\d+/.exec(line)?.[0] ?? ''
}

/** All ports that belong to a demo: its own, that of Redis, those of the instances. */
async function portsOf(line: string): Promise<number[]> {
  const address = addressIn(line)
  const answer = (await (await fetch(`${address}/cluster`)).json()) as {
    redisPort: number
    instances: { port: number }[]
  }
  return [Number(new URL(address).port), answer.redisPort, ...answer.instances.map(({ port }) => port)]
}

async function isTaken(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
