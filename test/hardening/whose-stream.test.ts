import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import type { StreamOptions, StreamPluginOptions } from '../../src/index.ts'
import { LogLines } from '../helpers/log-lines.ts'
import { numbers } from '../helpers/numbers.ts'
import type { SseClient, SseRequest } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

const SECRET = 'a-secret-payload'
const keysOfPino = new Set(['level', 'time', 'pid', 'hostname', 'reqId', 'msg'])

interface Stage {
  readonly app: App
  readonly logs: LogLines
  readonly gate: StepGate
  /** Owners for whom a handler was called, in order. */
  readonly runs: string[]
}

/** Routes with named and unnamed streams; the owner is the user that a header names. */
async function startStage(t: Test, plugin: StreamPluginOptions = {}, call: StreamOptions = {}): Promise<Stage> {
  const logs = new LogLines()
  const gate = new StepGate()
  const runs: string[] = []
  const app = await startApp(
    t,
    (fastify) => {
      for (const url of ['/named', '/unnamed', '/other']) {
        fastify.route({
          method: ['GET', 'POST'],
          url,
          handler: (request, reply) => {
            const owner = String(request.headers['x-user'])
            return reply.sseFromGenerator(
              async function* (signal) {
                runs.push(owner)
                for await (const number of numbers(4, gate)(signal)) yield `${SECRET} ${owner} ${number}`
              },
              { ...(url === '/named' && { streamId: 's' }), ...call }
            )
          }
        })
      }
      fastify.get('/attach', (_, reply) => reply.sseAttach('s'))
    },
    {
      fastify: logs.fastify,
      plugin: { owner: (request) => String(request.headers['x-user']), retry: false, ...plugin }
    }
  )
  return { app, logs, gate, runs }
}

function as(user: string, request: SseRequest = {}): SseRequest {
  return { ...request, headers: { 'x-user': user, ...request.headers } }
}

/** An answer, as far as it does not differ by chance or by time. */
async function answerOf(client: SseClient): Promise<unknown> {
  const end = await client.waitForEnd()
  const { status, rawHeaders } = client.head
  const headers = rawHeaders.map(([name, value]) => [name, name.toLowerCase() === 'date' ? '' : value])
  return { status, headers, body: client.text, end }
}

t.test('another owner with the right id and the right cursor', async (t) => {
  t.test('gets byte for byte the answer of a stream that does not exist', async (t) => {
    const { app, gate, runs } = await startStage(t)
    const ada = await app.open('/named', as('ada'))
    gate.release(2)
    await ada.waitForData(2)
    const lastEventId = ada.lastEventId
    t.match(lastEventId, /\.2$/)

    for (const request of [{ lastEventId }, {}, { lastEventId: 'malformed' }, { lastEventId: '' }] as SseRequest[]) {
      for (const method of ['GET', 'HEAD']) {
        const foreign = await app.open('/attach', as('bob', { ...request, method }))
        const missing = await app.open('/attach', as('nobody', { ...request, method }))
        const [one, other] = [await answerOf(foreign), await answerOf(missing)]
        // The id of a cursor that is no event id is drawn for the answer.
        t.strictSame(
          withoutDrawnId(one, request),
          withoutDrawnId(other, request),
          `${method} ${JSON.stringify(request)}`
        )
      }
    }
    const foreign = await app.open('/named', as('bob', { lastEventId }))
    const missing = await app.open('/named', as('nobody', { lastEventId }))
    t.strictSame(await answerOf(foreign), await answerOf(missing))
    t.match(foreign.text, /"reason":"lost"/)
    t.notMatch(foreign.text, SECRET)
    t.strictSame(runs, ['ada'], 'and starts nothing')
    t.equal(app.streams.get('s', { owner: 'ada' })?.clients, 1, 'and displaces nobody')
    gate.release(2)
    t.equal(await ada.waitForEnd(), 'end')
    t.equal(ada.data.length, 4)
  })

  t.test('finds no unnamed stream, running or finished', async (t) => {
    const { app, gate, runs } = await startStage(t)
    const ada = await app.open('/unnamed', as('ada'))
    gate.release(1)
    await ada.waitForData(1)
    const cursors = [ada.lastEventId, ada.events[0]?.id]
    const check = async (): Promise<void> => {
      for (const lastEventId of cursors) {
        const foreign = await app.open('/unnamed', as('bob', { lastEventId }))
        const missing = await app.open('/unnamed', as('nobody', { lastEventId }))
        t.strictSame(await answerOf(foreign), await answerOf(missing))
        t.match(foreign.text, /"reason":"lost"/)
      }
    }
    await check()
    gate.release(3)
    await ada.waitForEnd()
    await check()
    t.strictSame(runs, ['ada'])
  })

  t.test('is told of no limit that only the stream of somebody else has reached', async (t) => {
    const stage = await startStage(t, { maxClientsPerStream: 1, maxStreamsPerOwner: 1 })
    const app = stage.app.at(0)
    await app.open('/named', as('ada'))
    const refused = await app.open('/named', as('ada', { headers: { accept: '*/*' } }))
    t.equal(refused.status, 503)
    const foreign = await app.open('/attach', as('bob', { headers: { accept: '*/*' } }))
    const missing = await app.open('/attach', as('nobody', { headers: { accept: '*/*' } }))
    t.strictSame(await answerOf(foreign), await answerOf(missing))
    t.equal(foreign.status, 404)
    t.equal((await app.open('/named', as('bob'))).status, 200)
  })
})

function withoutDrawnId(answer: unknown, { lastEventId }: SseRequest): unknown {
  const text = JSON.stringify(answer)
  return lastEventId === 'malformed' ? text.replace(/id: [A-Za-z0-9_-]{8}\.end/, 'id: drawn.end') : text
}

t.test('a cursor of one route leads to nothing on another route, or by another method', async (t) => {
  const { app, gate, runs } = await startStage(t)
  const ada = await app.open('/unnamed', as('ada'))
  gate.release(1)
  await ada.waitForData(1)
  const { lastEventId } = ada
  for (const [path, request] of [
    ['/other', {}],
    ['/unnamed', { method: 'POST', body: {} }],
    ['/named', {}]
  ] as const) {
    const client = await app.open(path, as('ada', { lastEventId, ...request }))
    t.equal(await client.waitForEnd(), 'end')
    t.match(client.text, /"reason":"lost"/)
  }
  t.strictSame(runs, ['ada'])
})

t.test('an unnamed stream is not found by its public id', async (t) => {
  const { app, gate } = await startStage(t)
  const ada = await app.open('/unnamed', as('ada'))
  gate.release(1)
  await ada.waitForData(1)
  const streamId = ada.headers['stream-id'] ?? ''
  for (const lastEventId of [`${streamId}.0`, `${streamId}.1`]) {
    const client = await app.open('/unnamed', as('ada', { lastEventId }))
    await client.waitForEnd()
    t.notMatch(client.text, SECRET)
  }
})

t.test(
  'the epoch of an unnamed stream is a capability: 128 random bits, which its public id does not give away',
  async (t) => {
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(() => ['x'])))
    const epochs = new Set<string>()
    const bits = Array<number>(128).fill(0)
    const COUNT = 400
    for (let i = 0; i < COUNT; i++) {
      const client = await app.open('/')
      await client.waitForEnd()
      const epoch = client.events[0]?.id?.split('.')[0] ?? ''
      const bytes = Buffer.from(epoch, 'base64url')
      t.equal(bytes.length, 16)
      epochs.add(epoch)
      for (let bit = 0; bit < 128; bit++) bits[bit]! += ((bytes[bit >> 3] as number) >> (bit & 7)) & 1
      const digest = createHash('sha256').update(epoch).digest().subarray(0, 16).toString('base64url')
      t.equal(client.headers['stream-id'], digest)
      await client.drop()
    }
    t.equal(epochs.size, COUNT)
    // Of 400 fair coins 200 ± 10 fall on one side; 60 off has a chance of one in 10⁹, and 128 of them one in 10⁷.
    t.ok(
      bits.every((ones) => Math.abs(ones - COUNT / 2) < 60),
      'every bit takes both values'
    )
  }
)

t.test('two tenants that use the same ids at the same time exchange nothing', async (t) => {
  const { app, gate, runs } = await startStage(t)
  const users = ['ada', 'bob', 'eve', 'ada bob']
  const clients: SseClient[] = []
  for (const user of users) clients.push(await app.open('/named', as(user)))
  for (const user of users) clients.push(await app.open('/named', as(user)))
  gate.release(users.length * 4)
  for (const [index, client] of clients.entries()) {
    const user = users[index % users.length] as string
    t.equal(await client.waitForEnd(), 'end')
    t.strictSame(
      client.data,
      [1, 2, 3, 4].map((number) => `${SECRET} ${user} ${number}`)
    )
    const again = await client.reconnect({ lastEventId: client.events[2]?.id })
    t.equal(await again.waitForEnd(), 'end')
    t.strictSame(
      again.data,
      [3, 4].map((number) => `${SECRET} ${user} ${number}`)
    )
  }
  t.strictSame(runs.toSorted(), users.toSorted())
})

t.test('a second client of the same owner joins, and displaces nobody', async (t) => {
  const { app, gate, runs } = await startStage(t)
  const first = await app.open('/named', as('ada'))
  const second = await app.open('/named', as('ada'))
  gate.release(4)
  for (const client of [first, second]) {
    t.equal(await client.waitForEnd(), 'end')
    t.equal(client.data.length, 4)
  }
  t.strictSame(runs, ['ada'])
})

t.test('sseStreams respects the owner', async (t) => {
  const { app } = await startStage(t)
  const sseStreams = app.streams
  const ada = await app.open('/named', as('ada'))
  await app.open('/named', as('bob'))

  t.equal(sseStreams.get('s'), undefined, 'without an owner only the ownerless are looked at')
  t.equal(sseStreams.get('s', { owner: 'eve' }), undefined)
  t.equal(sseStreams.get('s', { owner: 'ada' })?.owner, 'ada')
  t.strictSame(sseStreams.list({ owner: 'eve' }), [])
  t.strictSame(
    sseStreams.list({ owner: 'ada' }).map(({ owner }) => owner),
    ['ada']
  )
  t.equal(sseStreams.list().length, 2)
  t.equal(await sseStreams.abort('s'), false)
  t.equal(await sseStreams.abort('s', { owner: 'eve' }), false)
  t.equal(sseStreams.get('s', { owner: 'ada' })?.state, 'running')
  t.equal(await sseStreams.abort('s', { owner: 'bob' }), true)
  t.equal(sseStreams.get('s', { owner: 'ada' })?.state, 'running', 'the one of the same name goes on')
  t.equal(await sseStreams.abort('s', { owner: 'ada' }), true)
  t.equal(await ada.waitForEnd(), 'end')

  await t.rejects(
    sseStreams.start(() => ['x'], { streamId: 'new' }),
    { code: 'FST_ERR_RSSE_OWNER_INVALID' }
  )
  for (const owner of ['', 1, null, {}] as string[]) {
    t.throws(() => sseStreams.get('s', { owner }), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
    t.throws(() => sseStreams.list({ owner }), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
    await t.rejects(sseStreams.abort('s', { owner }), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
  }
})

t.test('an owner that is nobody is an error, never a shared namespace', async (t) => {
  for (const owner of ['', undefined, null, 0, {}, ['ada'], Promise.resolve('ada')]) {
    const app = await startApp(
      t,
      (fastify) => {
        fastify.get('/', (_, reply) => reply.sseFromGenerator(() => [SECRET], { streamId: 's' }))
        fastify.get('/attach', (_, reply) => reply.sseAttach('s'))
      },
      { plugin: { owner: () => owner as string } }
    )
    for (const path of ['/', '/attach']) {
      const client = await app.open(path)
      t.equal(client.status, 500)
      t.equal((await client.json())['code'], 'FST_ERR_RSSE_OWNER_INVALID')
    }
    t.equal(app.streams.size, 0)
  }
})

t.test('no cursor, epoch or payload is in any line of the log', async (t) => {
  const { app, gate, logs } = await startStage(t, { stallTimeout: 1_000 })
  const epochs: string[] = []
  const remember = (client: SseClient): void => void epochs.push(client.events[0]?.id?.split('.')[0] ?? '')
  for (const path of ['/named', '/unnamed']) {
    // Comes, drops, comes back, comes with junk, comes to a stream that is gone, is aborted.
    const client = await app.open(path, as('ada'))
    gate.release(2)
    await client.waitForData(2)
    remember(client)
    const second = await client.reconnect(as('ada'))
    gate.release(2)
    await second.waitForEnd()
    await (await app.open(path, as('ada', { lastEventId: `${epochs.at(-1)}.9` }))).waitForEnd()
    await (await app.open(path, as('bob', { lastEventId: `${epochs.at(-1)}.1` }))).waitForEnd()
  }
  const aborted = await app.open('/unnamed', as('eve'))
  gate.release(1)
  await aborted.waitForData(1)
  remember(aborted)
  app.streams.abortAll('a-private-reason')
  await aborted.waitForEnd()
  const left = await app.open('/unnamed', as('eve'))
  gate.release(1)
  await left.waitForData(1)
  remember(left)
  await app.fastify.close()

  t.ok(logs.with('stream finished').length >= 3)
  t.ok(epochs.every((epoch) => epoch.length >= 8))
  for (const epoch of epochs) t.notOk(logs.text.includes(epoch), 'no epoch')
  t.notOk(logs.text.includes(SECRET), 'no payload')
  t.notOk(logs.text.includes('a-private-reason'), 'no reason')
  t.strictSame(logs.complaints, [])
  for (const line of logs.with('stream finished')) {
    const own = Object.keys(line).filter((key) => !keysOfPino.has(key))
    t.strictSame(own.toSorted(), ['bytes', 'clients', 'durationMs', 'events', 'outcome', 'streamId'])
  }
})
