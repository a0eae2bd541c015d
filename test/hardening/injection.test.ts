import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import type { SseMessage, StreamOptions } from '../../src/index.ts'
import { LogLines } from '../helpers/log-lines.ts'
import { startApp, type App } from '../helpers/start-app.ts'

// What would end a line, a block or a header, what parsers have tripped over, and what must pass unchanged.
const lineEnds = { LF: '\n', CR: '\r', CRLF: '\r\n', 'LF LF': '\n\n', 'CR CR': '\r\r' }
const others = {
  NUL: '\0',
  BOM: '\uFEFF',
  'line separator': '\u2028',
  'paragraph separator': '\u2029',
  'next line': '\u0085',
  'vertical tab': '\v',
  'form feed': '\f',
  escape: '\u001b',
  delete: '\u007f',
  'a letter of Latin-1': 'é',
  'a letter beyond': 'Ж',
  'a surrogate pair': '😀',
  colon: ':',
  space: ' '
}
const ATTACK = 'event: evil\ndata: evil\nid: evil.1\nretry: 1\n\n'

/** A stream of these values; what cannot be an event is skipped by the generator, which goes on. */
async function startYielding(t: Test, values: readonly unknown[], options: object = {}): Promise<App> {
  return startApp(t, (fastify) => {
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(
        async function* () {
          for (const value of values) {
            try {
              yield value as SseMessage
            } catch (error) {
              yield `refused: ${(error as { code?: string }).code}`
            }
          }
        },
        { streamId: 's', ...options } as StreamOptions
      )
    )
  })
}

async function receive(t: Test, values: readonly unknown[], options: object = {}) {
  const app = await startYielding(t, values, options)
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  t.notOk(
    client.events.some(({ event, id }) => event === 'evil' || id?.startsWith('evil')),
    'no event that was not yielded'
  )
  t.equal(client.retries.length, 1, 'no reconnection time that was not set')
  t.equal(client.events.length, values.length + 2, 'one event for each value, the start and the end')
  return client
}

const REFUSED = 'refused: FST_ERR_RSSE_EVENT_INVALID'

t.test('data', async (t) => {
  for (const [name, ending] of Object.entries(lineEnds)) {
    t.test(`${name} in it is a line of the same event`, async (t) => {
      const client = await receive(t, [`a${ending}${ATTACK}`, { data: `${ending}b${ending}` }, ending])
      const normal = ending.replace(/\r\n?/g, '\n')
      t.strictSame(client.data, [`a${normal}${ATTACK}`, `${normal}b${normal}`, normal])
    })
  }
  for (const [name, character] of Object.entries(others)) {
    t.test(`${name} passes unchanged`, async (t) => {
      const values = [character, `${character}a${character}`, { data: `${character}: ${character}` }]
      const client = await receive(t, values)
      t.strictSame(client.data, [character, `${character}a${character}`, `${character}: ${character}`])
    })
  }
  t.test('lone surrogates become U+FFFD, in text that stays as long as it says', async (t) => {
    const client = await receive(t, ['\uD800', 'a\uDC00b', { data: ['\uD800'] }])
    t.strictSame(client.data, ['\uFFFD', 'a\uFFFDb', '["\\ud800"]'])
  })
  t.test('made by serialize, map or toJSON breaks out neither', async (t) => {
    const serialized = await receive(t, [{ data: 1 }], { serialize: () => `\n\n${ATTACK}` })
    t.strictSame(serialized.data, [`\n\n${ATTACK}`])
    const mapped = await receive(t, [1], { map: () => ({ data: `\r\r${ATTACK}` }) })
    t.strictSame(mapped.data, [`\n\n${ATTACK}`])
    const jsoned = await receive(t, [{ data: { toJSON: () => `\n\n${ATTACK}` } }])
    t.strictSame(JSON.parse(jsoned.data[0] ?? ''), `\n\n${ATTACK}`)
  })
})

t.test('event', async (t) => {
  for (const [name, ending] of Object.entries({ ...lineEnds, NUL: '\0' })) {
    t.test(`${name} in it is refused, wherever it stands and whatever makes it`, async (t) => {
      const names = [`a${ending}${ATTACK}`, `${ending}a`, `a${ending}`, ending]
      const client = await receive(
        t,
        names.map((event) => ({ data: 'x', event }))
      )
      t.strictSame(client.data, Array(names.length).fill(REFUSED))
      const mapped = await startYielding(t, [1], {
        map: (value: unknown) => (value === 1 ? { data: 'x', event: `a${ending}b` } : String(value))
      })
      const second = await mapped.open('/')
      await second.waitForEnd()
      t.strictSame(second.data, [REFUSED])
    })
  }
  for (const [name, character] of Object.entries(others)) {
    if (character === '\0') continue
    t.test(`${name} passes unchanged`, async (t) => {
      const client = await receive(t, [{ data: 'x', event: `${character}a${character}` }])
      t.equal(client.userEvents[0]?.event, `${character}a${character}`)
    })
  }
  t.test('an empty one, a reserved one and one that is no string are refused', async (t) => {
    const names = ['', 'stream-', 'stream-end', 'stream-error', 1, {}, ['a'], true, null, { toString: () => 'a\nb' }]
    const client = await receive(
      t,
      names.map((event) => ({ data: 'x', event }))
    )
    t.strictSame(client.data, Array(names.length).fill(REFUSED))
  })
  t.test('a getter that answers differently each time is read once', async (t) => {
    let reads = 0
    const shifty = {
      data: 'x',
      get event() {
        return reads++ === 0 ? 'good' : `bad\n${ATTACK}`
      }
    }
    const client = await receive(t, [shifty])
    t.equal(client.userEvents[0]?.event, 'good')
  })
})

t.test('comment', async (t) => {
  for (const [name, character] of Object.entries({ ...lineEnds, ...others })) {
    t.test(`${name} in it stays a comment`, async (t) => {
      const client = await receive(t, [
        { data: 'x', comment: `a${character}${ATTACK}` },
        { data: 'y', comment: character },
        { data: 'z', comment: '' }
      ])
      t.strictSame(client.data, ['x', 'y', 'z'])
    })
  }
  t.test('one that is no string is refused', async (t) => {
    const comments = [1, null, {}, ['a'], { split: () => [`x\n\n${ATTACK}`] }]
    const client = await receive(
      t,
      comments.map((comment) => ({ data: 'x', comment }))
    )
    t.strictSame(client.data, Array(comments.length).fill(REFUSED))
  })
})

t.test('retry is checked at run time', async (t) => {
  const retries: unknown[] = [
    '1',
    `1\n${ATTACK}`,
    NaN,
    -1,
    -0.5,
    1.5,
    Infinity,
    2_147_483_648,
    1e21,
    null,
    {},
    [5],
    5n,
    true,
    { valueOf: () => 5 },
    { toString: () => `5\n\n${ATTACK}` }
  ]
  const client = await receive(
    t,
    retries.map((retry) => ({ data: 'x', retry }))
  )
  t.strictSame(client.data, Array(retries.length).fill(REFUSED))
})

t.test('an id, or any other key, is refused', async (t) => {
  const values = [
    { data: 'x', id: '5' },
    { data: 'x', id: `5\n${ATTACK}` },
    { data: 'x', [`a\n${ATTACK}`]: 1 },
    JSON.parse('{"data":"x","__proto__":{"event":"evil"}}') as object
  ]
  const client = await receive(t, values)
  t.strictSame(client.data, Array(values.length).fill(REFUSED))
})

t.test('the message of an error that may be shown is one line of JSON', async (t) => {
  const message = `a\n\r\n${ATTACK}\u2028\0`
  const app = await startApp(t, (fastify) => {
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(async function* () {
        yield 'x'
        throw Object.assign(new Error(message), { expose: true })
      })
    )
  })
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  t.strictSame(
    client.events.map(({ event }) => event),
    ['stream-start', undefined, 'stream-error', 'stream-end']
  )
  t.equal((JSON.parse(client.events[2]?.data ?? '') as { message: string }).message, message)
})

t.test('streamId', async (t) => {
  for (const [name, character] of Object.entries({ ...lineEnds, ...others, slash: '/', dot: '.', 'plus sign': '+' })) {
    t.test(`${name} in it is a 400, and reaches no header`, async (t) => {
      const app = await startApp(t, (fastify) => {
        const idOf = (query: unknown): string => (query as { id: string }).id
        fastify.get('/', ({ query }, reply) => reply.sseFromGenerator(() => ['x'], { streamId: idOf(query) }))
        fastify.get('/attach', ({ query }, reply) => reply.sseAttach(idOf(query)))
      })
      for (const streamId of [`a${character}b`, character, `${character}set-cookie: evil=1`]) {
        for (const path of ['/', '/attach']) {
          const client = await app.open(`${path}?id=${encodeURIComponent(streamId)}`)
          t.equal(client.status, 400)
          t.equal((await client.json())['code'], 'FST_ERR_RSSE_STREAM_ID_INVALID')
          t.notOk('stream-id' in client.headers || 'set-cookie' in client.headers)
        }
        t.throws(() => app.streams.get(streamId), { code: 'FST_ERR_RSSE_STREAM_ID_INVALID' })
        await t.rejects(app.streams.abort(streamId), { code: 'FST_ERR_RSSE_STREAM_ID_INVALID' })
        await t.rejects(
          app.streams.start(() => ['x'], { streamId }),
          {
            code: 'FST_ERR_RSSE_STREAM_ID_INVALID'
          }
        )
      }
      t.equal(app.streams.size, 0)
    })
  }
})

t.test('owner: whatever it is made of, it is a namespace of its own and reaches no client', async (t) => {
  const owners = [
    'a',
    'a b',
    'a\nb',
    'a\r\nb',
    'b',
    ' ',
    '  ',
    's a',
    'a s',
    '\0',
    '\uFEFF',
    'é',
    'e\u0301',
    '😀',
    '__proto__',
    'constructor',
    'undefined'
  ]
  const app = await startApp(t, (fastify) => {
    fastify.get('/', ({ query }, reply) => {
      const { owner } = query as { owner?: string }
      return reply.sseFromGenerator(() => [`of ${JSON.stringify(owner)}`], { streamId: 's', owner })
    })
  })
  for (const owner of owners) {
    const client = await app.open(`/?owner=${encodeURIComponent(owner)}`)
    await client.waitForEnd()
    t.strictSame(client.data, [`of ${JSON.stringify(owner)}`])
    t.notOk(Object.values(client.headers).includes(owner))
  }
  t.equal(app.streams.size, owners.length)
  for (const owner of owners) {
    t.strictSame(
      app.streams.list({ owner }).map((info) => info.owner),
      [owner]
    )
  }
})

// ── cursors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Sends these bytes as the header, which no client library would, and returns the whole answer. */
async function sendCursor(t: Test, port: number, path: string, cursor: Buffer, times = 1): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  const header = Buffer.concat([Buffer.from('last-event-id: '), cursor, Buffer.from('\r\n')])
  socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nconnection: close\r\n`)
  socket.write(Buffer.concat([...Array<Buffer>(times).fill(header), Buffer.from('\r\n')]))
  return text(socket)
}

const cursors: Record<string, Buffer> = {
  'a NUL': Buffer.from('a\0b.1'),
  'a bare LF': Buffer.from('a.1\nx-evil: 1'),
  'a bare CR': Buffer.from('a.1\rx-evil: 1'),
  'a folded line': Buffer.from('a.1\r\n evil'),
  'Latin-1': Buffer.from('é.1', 'latin1'),
  'UTF-8': Buffer.from('日本.1'),
  'a BOM': Buffer.from('\uFEFFa.1'),
  'invalid UTF-8': Buffer.from([0xff, 0xfe, 0x80]),
  'a delete': Buffer.from('\u007f.1'),
  markup: Buffer.from('<script>alert(1)</script>'),
  'a negative sequence': Buffer.from('EPOCH.-1'),
  'a sequence with a leading zero': Buffer.from('EPOCH.01'),
  'a sequence with an exponent': Buffer.from('EPOCH.1e3'),
  'a sequence beyond every integer': Buffer.from(`EPOCH.${'9'.repeat(30)}`),
  'a sequence with a fraction': Buffer.from('EPOCH.1.5'),
  'no sequence': Buffer.from('EPOCH.'),
  'no epoch': Buffer.from('.1'),
  'a prototype': Buffer.from('__proto__.1'),
  'two cursors in one': Buffer.from('EPOCH.1, EPOCH.2'),
  'a long one': Buffer.from(`${'a'.repeat(7_000)}.1`),
  'a long one of dots': Buffer.from('.'.repeat(7_000))
}

t.test('a cursor that is no event id', async (t) => {
  const logs = new LogLines()
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(() => ['one', 'two'], { streamId: 's' }))
      fastify.get('/query', ({ query }, reply) => {
        // Whatever a query parser makes of it: a string, an array, nothing.
        const { cursor } = query as { cursor?: string }
        return reply.sseFromGenerator(() => ['one', 'two'], { streamId: 's', lastEventId: cursor })
      })
      fastify.get('/gone', (_, reply) => reply.sseAttach('gone'))
    },
    { fastify: logs.fastify }
  )
  const first = await app.open('/')
  await first.waitForEnd()
  const epoch = first.events[0]?.id?.split('.')[0] ?? ''

  for (const [name, template] of Object.entries(cursors)) {
    const cursor = Buffer.from(template.toString('latin1').replaceAll('EPOCH', epoch), 'latin1')
    t.test(`${name}: in the header it is a reset or a 400, and nothing of it comes back`, async (t) => {
      for (const path of ['/', '/gone']) {
        const answer = await sendCursor(t, app.port, path, cursor)
        t.match(answer, /^HTTP\/1\.1 (200 OK|400 Bad Request|431 )/)
        t.notMatch(answer, /evil|script/)
        if (!answer.startsWith('HTTP/1.1 200')) continue
        if (path === '/') t.match(answer, /"reason":"reset"[^]*data: one\n[^]*data: two\n[^]*stream-end/)
        else t.match(answer, /"reason":"lost"[^]*stream-end\ndata: \{"outcome":"lost"\}\nid: [A-Za-z0-9_-]+\.end\n\n/)
      }
    })
    t.test(`${name}: in lastEventId it is a reset`, async (t) => {
      const client = await app.open(`/query?cursor=${encodeURIComponent(cursor.toString('utf8')).slice(0, 9_000)}`)
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.text, /"reason":"reset"/)
      t.strictSame(client.data, ['one', 'two'])
    })
  }

  t.test('sent twice is a reset', async (t) => {
    const answer = await sendCursor(t, app.port, '/', Buffer.from(`${epoch}.1`), 2)
    t.match(answer, /"reason":"reset"[^]*data: one\n/)
  })

  t.test('in lastEventId it may be of any type', async (t) => {
    for (const lastEventId of [
      1,
      null,
      {},
      [],
      [`${epoch}.1`],
      Symbol('s'),
      () => {},
      new Proxy({}, { get: () => 'x' })
    ]) {
      const other = await startApp(t, (fastify) => {
        fastify.get('/', (_, reply) =>
          reply.sseFromGenerator(() => ['one'], { streamId: 's', lastEventId: lastEventId as string })
        )
        fastify.get('/start', (_, reply) => reply.sseFromGenerator(() => ['one'], { streamId: 's' }))
      })
      await (await other.open('/start')).waitForEnd()
      const client = await other.open('/')
      await client.waitForEnd()
      t.match(client.text, /"reason":"reset"/)
    }
  })

  t.test('is in no line of the log', async (t) => {
    // The URL is the application's choice, and Fastify's line.
    const withoutUrls = logs.text.replaceAll(/"url":"[^"]*"/g, '')
    t.notOk(/evil|script/.test(withoutUrls))
    t.notOk(withoutUrls.includes(epoch))
  })
})
