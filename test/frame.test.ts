import assert from 'node:assert/strict'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import { test } from 'tap'
import { EventInvalidError } from '../src/errors.ts'
import {
  encodeValue,
  HEARTBEAT,
  idLine,
  retryFrame,
  streamEndFrame,
  streamErrorFrame,
  streamGapFrame,
  streamStartFrame,
  type Encoding
} from '../src/frame.ts'

const PLAIN: Encoding = { map: undefined, serialize: JSON.stringify }

interface Parsed {
  readonly events: EventSourceMessage[]
  readonly comments: string[]
  readonly retries: number[]
}

/** What an independent parser reads. */
function parse(text: string): Parsed {
  const parsed: Parsed = { events: [], comments: [], retries: [] }
  const parser = createParser({
    onEvent: (event) => parsed.events.push(event),
    onComment: (comment) => parsed.comments.push(comment),
    onRetry: (ms) => parsed.retries.push(ms),
    onError: (error) => {
      throw error
    }
  })
  parser.feed(text)
  return parsed
}

function encode(value: unknown, encoding: Partial<Encoding> = {}): string {
  return encodeValue(value, { ...PLAIN, ...encoding }) + idLine('epoch', 1)
}

function decode(value: unknown, encoding: Partial<Encoding> = {}): EventSourceMessage | undefined {
  const { events } = parse(encode(value, encoding))
  return events.length === 1 ? events[0] : undefined
}

/** What the format cannot carry: a lone surrogate is no UTF-8, and every line break is a LF. */
function asReceived(text: string): string {
  return text.toWellFormed().replaceAll(/\r\n|\r/g, '\n')
}

test('a string is the data of a message', async (t) => {
  t.equal(encode('hello'), 'data: hello\nid: epoch.1\n\n')
  t.strictSame(decode('hello'), { event: undefined, data: 'hello', id: 'epoch.1' })
})

test('an empty string is an event', async (t) => {
  t.equal(decode('')?.data, '')
})

test('a message has all its fields, and its id is the last line', async (t) => {
  const text = encode({ data: { a: 1 }, event: 'token', retry: 100, comment: 'note' })
  t.equal(text, 'event: token\nretry: 100\n: note\ndata: {"a":1}\nid: epoch.1\n\n')
  t.strictSame(parse(text), {
    events: [{ event: 'token', data: '{"a":1}', id: 'epoch.1' }],
    comments: ['note'],
    retries: [100]
  })
})

test('the id is the last line in whatever order the fields were given', async () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(['data', 'event', 'retry', 'comment'], { minLength: 4 }), (keys) => {
      const values: Record<string, unknown> = { data: 'x', event: 'e', retry: 1, comment: 'c' }
      const text = encode(Object.fromEntries(keys.map((key) => [key, values[key]])))
      assert.ok(text.endsWith('\nid: epoch.1\n\n'))
    })
  )
})

test('fields that are undefined are not given', async (t) => {
  t.equal(encode({ data: 'x', event: undefined, retry: undefined, comment: undefined, id: undefined }), encode('x'))
})

test('CRLF, CR and LF all end a line of data', async (t) => {
  t.equal(encode('a\r\nb\rc\nd'), 'data: a\ndata: b\ndata: c\ndata: d\nid: epoch.1\n\n')
  t.equal(decode('a\r\nb\rc\nd')?.data, 'a\nb\nc\nd')
  t.equal(decode('\n\n')?.data, '\n\n')
})

test('a leading space and a leading colon of data survive', async (t) => {
  t.equal(decode(' a')?.data, ' a')
  t.equal(decode(':a')?.data, ':a')
})

test('data that looks like other fields stays data', async (t) => {
  const text = 'event: evil\nid: evil\n\nretry: 1\ndata: evil'
  t.strictSame(decode(text), { event: undefined, data: text, id: 'epoch.1' })
})

test('data that is no string is serialized', async (t) => {
  for (const data of [null, 0, false, [1, 2], { a: 'b' }]) t.equal(decode({ data })?.data, JSON.stringify(data))
  t.equal(decode({ data: 'text' })?.data, 'text')
  t.equal(decode({ data: 1 }, { serialize: (value) => `<${String(value)}>` })?.data, '<1>')
})

test('a serialized value with line breaks is split like any other data', async (t) => {
  t.equal(decode({ data: {} }, { serialize: () => 'a\nevent: evil' })?.data, 'a\nevent: evil')
})

test('map makes an event of any value', async (t) => {
  const map = (value: unknown): { data: unknown; event: string } => ({ data: value, event: 'number' })
  t.strictSame(decode(1, { map }), { event: 'number', data: '1', id: 'epoch.1' })
  t.equal(decode(undefined, { map: String })?.data, 'undefined')
})

test('any text is read as it was yielded, or with the line breaks of the format', async () => {
  const text = fc.string({ unit: 'binary' })
  const lines = fc.array(
    fc.oneof(text, fc.constantFrom('\r', '\n', '\r\n', '\0', '\u2028', '\uFEFF', 'data: ', 'id: '))
  )
  fc.assert(
    fc.property(
      lines.map((parts) => parts.join('')),
      lines.map((parts) => parts.join('')),
      (data, comment) => {
        const bytes = Buffer.from(encode({ data, comment }))
        const { events, comments } = parse(bytes.toString())
        assert.deepEqual(events, [{ event: undefined, data: asReceived(data), id: 'epoch.1' }])
        assert.equal(comments.join('\n'), asReceived(comment))
      }
    ),
    { numRuns: 1_000 }
  )
})

test('a name with no line break and no NUL is read as it was given', async () => {
  const name = fc
    .string({ unit: 'binary', minLength: 1 })
    .filter((text) => !/[\r\n\0]/.test(text) && !text.startsWith('stream-') && text.isWellFormed())
  fc.assert(
    fc.property(name, (event) => assert.equal(decode({ event, data: '' })?.event, event)),
    { numRuns: 1_000 }
  )
})

test('a comment alone is no event', async (t) => {
  const { events, comments } = parse(HEARTBEAT)
  t.strictSame(events, [])
  t.strictSame(comments, [''])
})

const cyclic: { self?: unknown } = {}
cyclic.self = cyclic

for (const [what, value, message] of [
  ['undefined', undefined, /not undefined/],
  ['null', null, /not null/],
  ['a number', 1, /not 1/],
  ['a boolean', true, /not true/],
  ['a function', () => 'x', /not a function/],
  ['a symbol', Symbol('x'), /not a symbol/],
  ['a bigint', 1n, /not a bigint/],
  ['an object without data', { event: 'x' }, /"data"/],
  ['an object whose data is undefined', { data: undefined }, /"data"/],
  ['an array', ['x'], /"0"/],
  ['an object with an unknown key', { data: 'x', evnet: 'y' }, /"evnet"/],
  ['an object with an id', { data: 'x', id: '1' }, /ids are made by the plugin/],
  ['an object whose data is on its prototype', Object.create({ data: 'x' }), /"data"/],
  ['cyclic data', { data: cyclic }, /see the cause/],
  ['a BigInt inside data', { data: { n: 1n } }, /see the cause/],
  ['data that serializes to undefined', { data: () => 'x' }, /"serialize" must return a string/],
  ['data whose toJSON throws', { data: { toJSON: () => JSON.parse('{') } }, /see the cause/],
  ['data whose toJSON gives undefined', { data: { toJSON: () => undefined } }, /"serialize" must return a string/],
  ['an empty event', { data: 'x', event: '' }, /"event".*""/],
  ['an event with a LF', { data: 'x', event: 'a\nb' }, /"event"/],
  ['an event with a CR', { data: 'x', event: 'a\rb' }, /"event"/],
  ['an event with a NUL', { data: 'x', event: 'a\0b' }, /"event"/],
  ['an event that is no string', { data: 'x', event: 1 }, /"event".*1/],
  ['an event that is null', { data: 'x', event: null }, /"event".*null/],
  ['a reserved event', { data: 'x', event: 'stream-end' }, /reserved.*"stream-end"/],
  ['a negative retry', { data: 'x', retry: -1 }, /"retry".*-1/],
  ['a retry above 2147483647', { data: 'x', retry: 2_147_483_648 }, /"retry".*2147483648/],
  ['a fractional retry', { data: 'x', retry: 1.5 }, /"retry".*1.5/],
  ['a retry that is NaN', { data: 'x', retry: NaN }, /"retry".*NaN/],
  ['a retry that is Infinity', { data: 'x', retry: Infinity }, /"retry".*Infinity/],
  ['a retry that is a string', { data: 'x', retry: '1' }, /"retry".*"1"/],
  ['a comment that is no string', { data: 'x', comment: 1 }, /"comment".*1/]
] as const) {
  test(`${what} is no event`, async (t) => {
    t.throws(() => encode(value), { code: 'FST_ERR_RSSE_EVENT_INVALID', statusCode: 500, message })
  })
}

test('a retry of 0 and of 2147483647 is sent', async (t) => {
  t.strictSame(parse(encode({ data: 'x', retry: 0 })).retries, [0])
  t.strictSame(parse(encode({ data: 'x', retry: 2_147_483_647 })).retries, [2_147_483_647])
})

test('what map, serialize or a getter throws is the cause', async (t) => {
  const cause = new Error('mine')
  const fail = (): never => {
    throw cause
  }
  const hostile = {
    get data() {
      return fail()
    }
  }
  for (const [value, encoding] of [
    ['x', { map: fail }],
    [{ data: 1 }, { serialize: fail }],
    [hostile, {}]
  ] as const) {
    try {
      encode(value, encoding)
      t.fail('nothing was thrown')
    } catch (error) {
      t.type(error, EventInvalidError)
      t.equal((error as Error).cause, cause)
    }
  }
})

test('a map or serialize that returns the wrong type is named', async (t) => {
  t.throws(() => encode('x', { map: () => 1 as unknown as string }), { message: /returned by "map", not 1/ })
  t.throws(() => encode('x', { map: () => undefined as unknown as string }), { message: /"map", not undefined/ })
  t.throws(() => encode({ data: 1 }, { serialize: () => 1 as unknown as string }), { message: /it returned 1/ })
})

test('a proxy that throws at every touch is no event', async (t) => {
  const hostile = new Proxy(
    {},
    {
      ownKeys() {
        throw new Error('mine')
      }
    }
  )
  t.throws(() => encode(hostile), { code: 'FST_ERR_RSSE_EVENT_INVALID' })
})

test('a large value is not shown whole in the message', async (t) => {
  try {
    encode({ data: 'x', event: 'stream-'.padEnd(10_000, 'x') })
    t.fail('nothing was thrown')
  } catch (error) {
    t.ok((error as Error).message.length < 300)
  }
})

test('control frames are read by an independent parser', async (t) => {
  t.strictSame(parse(streamStartFrame('the-id', 'epoch', 0)).events, [
    { event: 'stream-start', data: '{"streamId":"the-id"}', id: 'epoch.0' }
  ])
  t.strictSame(parse(streamGapFrame('trimmed', 3, 5)).events, [
    { event: 'stream-gap', data: '{"reason":"trimmed","missed":3,"resumesAt":5}', id: undefined }
  ])
  t.strictSame(parse(streamGapFrame('lost', null, null)).events, [
    { event: 'stream-gap', data: '{"reason":"lost","missed":null,"resumesAt":null}', id: undefined }
  ])
  t.strictSame(parse(streamErrorFrame({ code: 'STREAM_FAILED', message: 'a\nb' }, 'epoch', 4)).events, [
    { event: 'stream-error', data: '{"code":"STREAM_FAILED","message":"a\\nb"}', id: 'epoch.4' }
  ])
  t.strictSame(parse(streamEndFrame('completed', 'epoch')).events, [
    { event: 'stream-end', data: '{"outcome":"completed"}', id: 'epoch.end' }
  ])
  t.strictSame(parse(retryFrame(1_234)), { events: [], comments: [], retries: [1_234] })
})
