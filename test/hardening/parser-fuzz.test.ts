import t from 'tap'
import type { SseMessage } from '../../src/index.ts'
import { createRandom, SEED, type Random } from '../helpers/random.ts'
import { sseParsers, type ParsedEvent } from '../helpers/sse-parsers.ts'
import { startApp } from '../helpers/start-app.ts'

const COUNT = Number(process.env['FUZZ_MESSAGES'] ?? 24_000)

// What the format gives a meaning to, what clients have stumbled over, and what is harmless.
const pieces = [
  '\n',
  '\r',
  '\r\n',
  '\n\n',
  '\r\r',
  '\0',
  '\u2028',
  '\u2029',
  '\u0085',
  '\uFEFF',
  '\v',
  '\f',
  '\t',
  '\u001b',
  '\u007f',
  ' ',
  '  ',
  ':',
  ': ',
  'data',
  'data:',
  'data: x',
  'event: evil',
  'id: 7',
  'id:',
  'retry: 1',
  ':comment',
  'stream-end',
  'é',
  '€',
  '😀',
  '\uD800',
  '\uDC00',
  '\u00a0',
  '日本',
  'a',
  'b',
  '0',
  '{',
  '}',
  '"',
  '\\',
  '[DONE]',
  '%0a',
  '</script>'
]
const piecesOfNames = pieces.filter((piece) => !/[\r\n\0]/.test(piece))

function text(random: Random, from: readonly string[], max: number): string {
  let made = ''
  for (let length = random.below(max + 1); length > 0; length--) made += random.pick(from)
  return made
}

function value(random: Random, depth: number): unknown {
  switch (random.below(depth > 0 ? 8 : 5)) {
    case 0:
      return null
    case 1:
      return random.below(2) === 0
    case 2:
      return random.below(1_000_000) / 8
    case 3:
    case 4:
      return text(random, pieces, 5)
    case 5:
      return Array.from({ length: random.below(4) }, () => value(random, depth - 1))
    default:
      return Object.fromEntries(
        Array.from({ length: random.below(4) }, () => [text(random, pieces, 2), value(random, depth - 1)])
      )
  }
}

interface Made {
  readonly input: string | SseMessage
  /** What a client has to read. */
  readonly event: string
  readonly data: string
}

/** As the format transports it: UTF-8, lines that end with LF. */
function transported(text: string): string {
  return text.toWellFormed().replace(/\r\n?/g, '\n')
}

function make(random: Random): Made {
  const isData = random.below(3) > 0
  const data = isData ? text(random, pieces, 8) : value(random, 3)
  const written = typeof data === 'string' ? data : JSON.stringify(data)
  if (typeof data === 'string' && random.below(3) === 0) {
    return { input: data, event: 'message', data: transported(written) }
  }
  const input: SseMessage = { data }
  let event = 'message'
  if (random.below(2) === 0) {
    const name = text(random, piecesOfNames, 4)
    if (name !== '' && !name.startsWith('stream-')) {
      input.event = name
      event = transported(name)
    }
  }
  if (random.below(4) === 0) input.retry = random.below(2_147_483_648)
  if (random.below(4) === 0) input.comment = text(random, pieces, 6)
  return { input, event, data: transported(written) }
}

/** The same bytes, cut anywhere: inside lines, line ends and characters. */
function cut(bytes: Buffer, random: Random): Uint8Array[] {
  const chunks: Uint8Array[] = []
  for (let start = 0; start < bytes.length;) {
    const end = start + 1 + random.below(random.below(4) === 0 ? 4 : 4_096)
    chunks.push(new Uint8Array(bytes.subarray(start, end)))
    start = end
  }
  return chunks
}

t.test(`three parsers read what was yielded, in ${COUNT} random messages`, async (t) => {
  t.comment(`SEED=${SEED} FUZZ_MESSAGES=${COUNT}`)
  const random = createRandom(SEED)
  const made = Array.from({ length: COUNT }, () => make(random))
  const app = await startApp(
    t,
    (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(() => made.map(({ input }) => input))),
    { plugin: { bufferSize: COUNT, bufferBytes: 1024 ** 3, heartbeatInterval: 0 } }
  )
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  const { bytes } = client
  const [start] = client.events
  const epoch = start?.id?.split('.')[0]

  const wanted: ParsedEvent[] = [
    { event: 'stream-start', data: start?.data ?? '', id: `${epoch}.0` },
    ...made.map(({ event, data }, index) => ({ event, data, id: `${epoch}.${index + 1}` })),
    { event: 'stream-end', data: '{"outcome":"completed"}', id: `${epoch}.end` }
  ]
  const retries = made.flatMap(({ input }) =>
    typeof input === 'object' && input.retry !== undefined ? input.retry : []
  )

  for (const [name, { parse, expected, knowsAllRetries }] of Object.entries(sseParsers)) {
    const parsed = parse(cut(bytes, random))
    t.equal(parsed.events.length, wanted.length, `${name}: as many events`)
    const wrong = wanted.flatMap((event, index) => {
      const found = parsed.events[index]
      const { event: type, data, id } = expected(event)
      const isSame = found?.event === type && found.data === data && found.id === id
      return isSame ? [] : [{ index, input: made[index - 1]?.input, found, wanted: { event: type, data, id } }]
    })
    t.strictSame(wrong.slice(0, 3), [], `${name}: each as it was yielded`)
    t.strictSame(
      knowsAllRetries ? parsed.retries.slice(1) : parsed.retries,
      knowsAllRetries ? retries : retries.slice(-1)
    )
  }
})
