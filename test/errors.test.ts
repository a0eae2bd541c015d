import { test } from 'tap'
import * as errors from '../src/errors.ts'
import { describeError, inspectValue, isRefusal } from '../src/errors.ts'

const HIDDEN = 'Internal Server Error'

for (const [what, error, code] of [
  ['an error', new Error('secret'), 'STREAM_FAILED'],
  ['an AbortError', new DOMException('secret', 'AbortError'), 'STREAM_ABORTED'],
  ['a TimeoutError', new DOMException('secret', 'TimeoutError'), 'STREAM_TIMEOUT'],
  ['ETIMEDOUT', Object.assign(new Error('secret'), { code: 'ETIMEDOUT' }), 'STREAM_TIMEOUT'],
  ['ECONNREFUSED', Object.assign(new Error('secret'), { code: 'ECONNREFUSED' }), 'STREAM_UNAVAILABLE'],
  ['ECONNRESET', Object.assign(new Error('secret'), { code: 'ECONNRESET' }), 'STREAM_UNAVAILABLE'],
  ['ENOTFOUND', Object.assign(new Error('secret'), { code: 'ENOTFOUND' }), 'STREAM_UNAVAILABLE'],
  ['status 502', Object.assign(new Error('secret'), { statusCode: 502 }), 'STREAM_UNAVAILABLE'],
  ['status 503', Object.assign(new Error('secret'), { statusCode: 503 }), 'STREAM_UNAVAILABLE'],
  ['status 504', Object.assign(new Error('secret'), { statusCode: 504 }), 'STREAM_UNAVAILABLE'],
  ['status 500', Object.assign(new Error('secret'), { statusCode: 500 }), 'STREAM_FAILED'],
  ['a message about a timeout', new Error('AbortError: ETIMEDOUT'), 'STREAM_FAILED'],
  ['an invalid event', new errors.EventInvalidError('secret'), 'EVENT_INVALID'],
  ['an event that is too large', new errors.EventTooLargeError(2, 1), 'EVENT_TOO_LARGE'],
  ['undefined', undefined, 'STREAM_FAILED'],
  ['null', null, 'STREAM_FAILED'],
  ['a string', 'secret', 'STREAM_FAILED'],
  ['a frozen object', Object.freeze({ message: 'secret' }), 'STREAM_FAILED']
] as const) {
  test(`${what} is ${code} to a client, and its message is hidden`, async (t) => {
    t.strictSame(describeError(error), { code, message: HIDDEN })
  })
}

test('a message is shown where the error says that it may be', async (t) => {
  const exposed = Object.assign(new Error('for everybody'), { expose: true })
  t.strictSame(describeError(exposed), { code: 'STREAM_FAILED', message: 'for everybody' })
  const clientError = Object.assign(new Error('for everybody'), { statusCode: 429 })
  t.strictSame(describeError(clientError), { code: 'STREAM_FAILED', message: 'for everybody' })
  t.equal(describeError(Object.assign(new Error('secret'), { statusCode: '400' })).message, HIDDEN)
  t.equal(describeError(Object.assign(new Error('secret'), { expose: 'yes' })).message, HIDDEN)
  t.equal(describeError({ expose: true, message: 42 }).message, HIDDEN)
})

test('an error whose getters throw is described all the same', async (t) => {
  const hostile = {
    get message(): string {
      throw new Error('mine')
    }
  }
  t.strictSame(describeError(hostile), { code: 'STREAM_FAILED', message: HIDDEN })
  const proxy = new Proxy(
    {},
    {
      get() {
        throw new Error('mine')
      }
    }
  )
  t.strictSame(describeError(proxy), { code: 'STREAM_FAILED', message: HIDDEN })
})

test('a refusal is what may come back later', async (t) => {
  for (const error of [
    new errors.RegistryFullError('x'),
    new errors.TooManyStreamsError(1),
    new errors.TooManyClientsError(1),
    new errors.ShuttingDownError()
  ]) {
    t.ok(isRefusal(error))
    t.equal(error.statusCode, 503)
  }
  t.notOk(isRefusal(new errors.StreamNotFoundError('a')))
  t.notOk(isRefusal(undefined))
})

test('the codes are API', async (t) => {
  const made = {
    OPTION_INVALID: new errors.OptionInvalidError('a', 'b', 'c'),
    STREAM_ID_INVALID: new errors.StreamIdInvalidError('a'),
    OWNER_INVALID: new errors.OwnerInvalidError('a'),
    STREAM_NOT_FOUND: new errors.StreamNotFoundError('a'),
    REGISTRY_FULL: new errors.RegistryFullError('a'),
    TOO_MANY_STREAMS: new errors.TooManyStreamsError(1),
    TOO_MANY_CLIENTS: new errors.TooManyClientsError(1),
    SHUTTING_DOWN: new errors.ShuttingDownError(),
    NESTED_REGISTRATION: new errors.NestedRegistrationError(),
    EVENT_INVALID: new errors.EventInvalidError('a'),
    EVENT_TOO_LARGE: new errors.EventTooLargeError(2, 1),
    HANDLER_INVALID: new errors.HandlerInvalidError('a')
  }
  const status: Record<string, number> = {
    STREAM_ID_INVALID: 400,
    STREAM_NOT_FOUND: 404,
    REGISTRY_FULL: 503,
    TOO_MANY_STREAMS: 503,
    TOO_MANY_CLIENTS: 503,
    SHUTTING_DOWN: 503
  }
  for (const [name, error] of Object.entries(made)) {
    t.equal(error.code, `FST_ERR_RSSE_${name}`)
    t.equal(error.statusCode, status[name] ?? 500)
    t.type(error, Error)
  }
})

test('a value is shown short, whatever it is', async (t) => {
  t.equal(inspectValue('a\n'), '"a\\n"')
  t.equal(inspectValue('x'.repeat(100)), `"${'x'.repeat(64)}…"`)
  t.equal(inspectValue(-0.5), '-0.5')
  t.equal(inspectValue(false), 'false')
  t.equal(inspectValue(null), 'null')
  t.equal(inspectValue(undefined), 'undefined')
  t.equal(inspectValue([1]), 'an array')
  t.equal(inspectValue({}), 'an object')
  t.equal(inspectValue(1n), 'a bigint')
  t.equal(inspectValue(Symbol('x')), 'a symbol')
  t.equal(
    inspectValue(() => {}),
    'a function'
  )
})
