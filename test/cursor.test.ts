import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { Epochs, parseCursor, streamIdOfEpoch } from '../src/cursor.ts'

const epochs = new Epochs()

const MALFORMED = { kind: 'malformed' }

test('nothing is no cursor', async (t) => {
  t.strictSame(parseCursor(undefined), { kind: 'none' })
  t.strictSame(parseCursor(''), { kind: 'none' })
})

test('an event id is a position', async (t) => {
  t.strictSame(parseCursor('AbC_-9.0'), { kind: 'position', epoch: 'AbC_-9', sequence: 0 })
  t.strictSame(parseCursor('e.1'), { kind: 'position', epoch: 'e', sequence: 1 })
  t.strictSame(parseCursor('e.999999999999999'), { kind: 'position', epoch: 'e', sequence: 999_999_999_999_999 })
})

test('the id of the end is terminal', async (t) => {
  t.strictSame(parseCursor('AbC_-9.end'), { kind: 'terminal', epoch: 'AbC_-9' })
})

for (const [what, value] of [
  ['without a sequence', 'epoch'],
  ['with an empty sequence', 'epoch.'],
  ['without an epoch', '.1'],
  ['with a leading zero', 'epoch.01'],
  ['with a sequence that is no safe integer', 'epoch.1000000000000000'],
  ['with a negative sequence', 'epoch.-1'],
  ['with a fraction', 'epoch.1.5'],
  ['with an exponent', 'epoch.1e3'],
  ['with a space', 'epoch.1 '],
  ['with a line break', 'epoch.1\n'],
  ['with two values in one header', 'epoch.1, epoch.2'],
  ['with a NUL', 'epoch\0.1'],
  ['with a letter outside ASCII', 'épochè.1'],
  ['with another kind of digit', 'epoch.١'],
  ['with an end in capitals', 'epoch.END'],
  ['of 129 bytes', `${'e'.repeat(127)}.1`]
] as const) {
  test(`an event id ${what} is malformed`, async (t) => {
    t.strictSame(parseCursor(value), MALFORMED)
  })
}

test('an event id of 128 bytes is read', async (t) => {
  t.strictSame(parseCursor(`${'e'.repeat(126)}.1`), { kind: 'position', epoch: 'e'.repeat(126), sequence: 1 })
})

test('a value of another type is malformed', async (t) => {
  const hostile = {
    toString() {
      throw new Error('never called')
    }
  }
  for (const value of [null, 0, 1, true, 1n, Symbol('epoch.1'), ['epoch.1'], {}, hostile, () => 'epoch.1']) {
    t.strictSame(parseCursor(value), MALFORMED)
  }
})

test('any string is read without an exception, and what is read is what was written', async () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const cursor = parseCursor(text)
      if (cursor.kind === 'position') assert.equal(`${cursor.epoch}.${cursor.sequence}`, text)
      else if (cursor.kind === 'terminal') assert.equal(`${cursor.epoch}.end`, text)
    }),
    { numRuns: 2_000 }
  )
})

test('an epoch and a sequence survive the wire', async () => {
  fc.assert(
    fc.property(fc.nat({ max: 999_999_999_999_999 }), fc.boolean(), (sequence, isSecret) => {
      const epoch = isSecret ? epochs.createSecretEpoch() : epochs.createEpoch()
      assert.deepEqual(parseCursor(`${epoch}.${sequence}`), { kind: 'position', epoch, sequence })
    })
  )
})

test('an epoch of a named stream has 6 random bytes, one of an unnamed stream 16', async (t) => {
  t.match(epochs.createEpoch(), /^[A-Za-z0-9_-]{8}$/)
  t.match(epochs.createSecretEpoch(), /^[A-Za-z0-9_-]{22}$/)
  const made = new Set(Array.from({ length: 1_000 }, () => epochs.createSecretEpoch()))
  t.equal(made.size, 1_000)
})

test('the public id of an unnamed stream follows from its epoch and does not show it', async (t) => {
  // The first 16 bytes of SHA-256('abc'), FIPS 180-2 appendix B.1.
  t.equal(streamIdOfEpoch('abc'), Buffer.from('ba7816bf8f01cfea414140de5dae2223', 'hex').toString('base64url'))
  const epoch = epochs.createSecretEpoch()
  t.match(streamIdOfEpoch(epoch), /^[A-Za-z0-9_-]{22}$/)
  t.equal(streamIdOfEpoch(epoch), streamIdOfEpoch(epoch))
  t.not(streamIdOfEpoch(epoch), epoch)
})
