import { test } from 'tap'
import { homeChannel, placeOf } from '../../src/store/address.ts'
import type { News } from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import {
  address,
  beat,
  frame,
  invalid,
  libraries,
  life,
  make,
  open,
  unavailable,
  sign
} from '../helpers/redis-store.ts'
import { untilAnswered } from '../helpers/until-answered.ts'

// What a server refuses, loses, or has from somebody else.

const hasServer = await new Promise<boolean>((resolve) => {
  void test('there is a server to test with', async (t) => resolve(hasRedis(t)))
})
const options = { skip: !hasServer }
const { record, log, channel } = placeOf('rsse', address)
const finish = { outcome: 'completed', error: undefined, finishedAt: 1 } as const

for (const [library, client] of libraries) {
  test(`${library}: a full server refuses frames whole, and nothing else`, options, async (t) => {
    const server = await RedisServer.start(t, ['--maxmemory', '6mb'])
    const { store, lines } = await open(t, client(server.port))
    const other = { streamId: 'another', owner: undefined }
    await store.create(address, life)
    await store.create(other, life)
    let stored = 0
    await t.rejects(
      (async () => {
        for (let sequence = 1; ; sequence++) {
          const answer = await store.append(address, frame(sequence, 100_000))
          if (answer.kind === 'stored') stored = answer.lastSequence
        }
      })(),
      unavailable
    )
    t.ok(stored > 0)
    // What the refused frames took is free again by now.
    await server.command('CONFIG', 'SET', 'maxmemory', '1')
    const fresh = { streamId: 'fresh', owner: undefined }
    await t.rejects(store.create(fresh, life), unavailable)
    t.equal(await store.read(fresh, 0, 0), undefined, 'nothing of it was written')
    t.match(await store.append(address, beat(stored)), { kind: 'stored', lastSequence: stored })
    const page = await store.read(address, stored - 1, 1_000_000, sign)
    t.match(page, { stream: { lastSequence: stored, finish: undefined } })
    t.equal(page?.batches.length, 1)
    t.equal(await store.stop(address), true)
    t.match(await store.append(address, { ...beat(stored), finish }), { kind: 'stored', isStopped: true })
    t.equal(await store.reap(other, 'life-1', 0), true)
    await server.command('CONFIG', 'SET', 'maxmemory', '0')
    t.strictSame(await store.create(fresh, life), { kind: 'made' })
    t.match(await store.append(fresh, frame(1, 100_000)), { kind: 'stored' })
    t.match(lines[0], { level: 'warn', fields: { err: { message: /^OOM / } } })
  })

  test(`${library}: a full server is waited for`, options, async (t) => {
    const server = await RedisServer.start(t, ['--maxmemory', '1'])
    const { store, lines, calls } = await open(t, client(server.port))
    t.match(lines, [{ level: 'warn', fields: { err: { message: /^OOM / } } }])
    await server.command('CONFIG', 'SET', 'maxmemory', '0')
    await eventually('the host is told', () => calls.includes('return'))
    t.strictSame(await store.create(address, life), { kind: 'made' })
  })

  test(`${library}: a replica will not do`, options, async (t) => {
    const server = await RedisServer.start(t)
    const replica = await RedisServer.start(t, ['--replicaof', '127.0.0.1', String(server.port)])
    const { store, host } = make(t, client(replica.port))
    await t.rejects(store.open(host), { ...invalid, message: /READONLY.*primary/ })
  })

  test(`${library}: a server that became a replica can be read, and is written again later`, options, async (t) => {
    const [server, primary] = [await RedisServer.start(t), await RedisServer.start(t)]
    const { store } = await open(t, client(server.port))
    await store.create(address, life)
    await store.append(address, frame(1))
    await server.command('CONFIG', 'SET', 'min-replicas-to-write', '1')
    await t.rejects(store.append(address, frame(2)), { ...unavailable, cause: { message: /NOREPLICAS/ } })
    t.match(await store.read(address, 0, 1_000, sign), { stream: { lastSequence: 1 } }, 'without a sign')
    await server.command('CONFIG', 'SET', 'min-replicas-to-write', '0')
    t.match(await store.append(address, frame(2)), { kind: 'stored', pacing: undefined })
    await server.command('REPLICAOF', '127.0.0.1', String(primary.port))
    await t.rejects(store.append(address, frame(3)), unavailable)
    await server.command('REPLICAOF', 'NO', 'ONE')
    t.ok(await untilAnswered(() => store.append(address, beat(2))))
  })

  test(`${library}: a script that the server forgot is sent again`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    await store.create(address, life)
    await server.command('SCRIPT', 'FLUSH')
    t.match(await store.append(address, frame(1)), { kind: 'stored' })
  })

  test(`${library}: the template is not touched`, options, async (t) => {
    const server = await RedisServer.start(t)
    const template = client(server.port) as ReturnType<typeof client> & {
      connect(): Promise<unknown>
      ping(): Promise<unknown>
      disconnect(): unknown
    }
    await template.connect()
    const { store } = await open(t, template)
    await store.create(address, life)
    await store.close(1_000)
    t.equal(await template.ping(), 'PONG')
    await template.disconnect()
  })
}

test('what is not ours is refused', options, async (t) => {
  const server = await RedisServer.start(t)
  const [[, client]] = libraries as [(typeof libraries)[number]]
  const { store, lines } = await open(t, client(server.port))
  const lay = async (...commands: string[][]): Promise<void> => {
    await server.command('FLUSHALL')
    for (const command of commands) t.notMatch(await server.command(...command), /^-/)
  }
  const ours = (await store.create(address, life)) && record
  const fields = {
    format: '1',
    epoch: 'life-1',
    home: store.instance,
    ttl: '60000',
    startedAt: '1',
    first: '1',
    last: '0'
  }
  const recordOf = (changes: object): string[] => [
    'HSET',
    ours,
    ...Object.entries({ ...fields, beat: '0', beatAt: '1', ...changes }).flat()
  ]
  const refuses = async (...calls: ('create' | 'append' | 'read')[]): Promise<void> => {
    if (calls.includes('create')) await t.rejects(store.create(address, life), invalid, 'create')
    if (calls.includes('append')) await t.rejects(store.append(address, frame(1)), invalid, 'append')
    if (calls.includes('read')) await t.rejects(store.read(address, 0, 1_000, sign), invalid, 'read')
  }

  for (const key of [record, log]) {
    t.test(`a key of another type: ${key.slice(-1)}`, async () => {
      await lay(['SET', key, 'mine'])
      await refuses('create')
      if (key === record) return refuses('append', 'read')
      t.equal(await server.command('GET', key), '$4\r\nmine\r\n', 'it is left alone')
    })
  }
  for (const changes of [
    { format: '2' },
    { format: '' },
    { last: 'x' },
    { first: '' },
    { beat: '?' },
    { beatAt: '-' }
  ]) {
    t.test(`a record with ${JSON.stringify(changes)}`, async () => {
      await lay(recordOf(changes))
      await refuses('create', 'append', 'read')
    })
  }
  for (const changes of [
    { outcome: 'great', finishedAt: '1' },
    { outcome: 'failed', finishedAt: 'x' },
    { outcome: 'failed', finishedAt: '1', code: 'ENOENT', message: '' },
    { outcome: 'failed', finishedAt: '1', code: 'STREAM_FAILED' },
    { startedAt: '-1' },
    { first: '1.5' },
    { last: '99999999999999999999' }
  ]) {
    t.test(`a record with ${JSON.stringify(changes)}`, async () => {
      await lay(recordOf(changes), ['XADD', log, '1-0', 'frames', 'x', 'lengths', '1'])
      const page = store.read(address, 0, 1_000)
      await t.rejects(page, invalid)
    })
  }
  for (const entry of [
    ['2-0', 'frames', 'xx', 'lengths', '1'],
    ['2-0', 'frames', 'xx', 'lengths', '1,1,0'],
    ['2-0', 'frames', 'xx', 'lengths', '1 1'],
    ['2-0', 'frames', 'xxx', 'lengths', '1,1,1'],
    ['2-1', 'frames', 'xx', 'lengths', '1,1'],
    ['2-0', 'frames', 'xx'],
    ['2-0', 'frames', 'xx', 'lengths', '1,1', 'more', '1'],
    ['2-0', 'frames', '', 'lengths', '']
  ]) {
    t.test(`a log with ${entry.join(' ')}`, async () => {
      await lay(recordOf({ last: '2' }), ['XADD', log, ...entry])
      await refuses('read')
    })
  }
  t.test('a log with a hole', async () => {
    const entries = ['1-0', '3-0'].map((id) => ['XADD', log, id, 'frames', 'x', 'lengths', '1'])
    await lay(recordOf({ last: '3' }), ...entries)
    await refuses('read')
  })
  t.test('is no outage', async (t) => {
    t.strictSame(lines, [])
  })
})

test('keys that were evicted', options, async (t) => {
  const server = await RedisServer.start(t)
  const [[, client]] = libraries as [(typeof libraries)[number]]
  const { store } = await open(t, client(server.port))
  const begin = async (): Promise<void> => {
    await server.command('FLUSHALL')
    await store.create(address, life)
    await store.append(address, frame(1))
  }

  t.test('the log of a running stream: it is missing, until its home comes', async (t) => {
    for (const append of [frame(2), beat(1)]) {
      await begin()
      await server.command('DEL', log)
      t.equal(await store.read(address, 0, 1_000), undefined)
      t.equal(await store.read(address, 1, 0), undefined)
      t.match(await store.create(address, life), { kind: 'there' })
      t.strictSame(await store.append(address, append), { kind: 'missing' })
      t.strictSame(await store.create(address, life), { kind: 'made' })
      t.match(await store.append(address, frame(1)), { kind: 'stored' })
    }
  })

  t.test('the log of a finished stream: it is missing, and its name is free', async (t) => {
    await begin()
    await store.append(address, { ...beat(1), finish })
    await server.command('DEL', log)
    t.equal(await store.read(address, 0, 1_000), undefined)
    t.strictSame(await store.create(address, life), { kind: 'made' })
  })

  t.test('the record: what is left of the log is not taken for one of the next life', async (t) => {
    await begin()
    await store.append(address, frame(2))
    await server.command('DEL', record)
    t.equal(await store.read(address, 0, 1_000), undefined)
    t.strictSame(await store.append(address, frame(3)), { kind: 'missing' })
    t.strictSame(await store.create(address, life), { kind: 'made' })
    t.match(await store.append(address, frame(1)), { kind: 'stored' })
    t.equal((await store.read(address, 0, 1_000))?.batches.length, 1)
  })

  t.test('no key is left without an end', async (t) => {
    await begin()
    await store.read(address, 0, 0, sign)
    await store.stop(address)
    for (const key of [record, log]) t.match(await server.command('PTTL', key), /^:[1-9]/)
    t.match(await server.command('KEYS', '*'), /^\*2\r\n/)
  })
})

test('messages that are not ours are dropped', options, async (t) => {
  const server = await RedisServer.start(t)
  const [[, client]] = libraries as [(typeof libraries)[number]]
  const { store, calls } = await open(t, client(server.port))
  const told: (News | undefined)[] = []
  store.follow(address, (news) => told.push(news))
  await eventually('it is followed', () => told.length === 1)
  for (const message of [
    '',
    '\n',
    '\n\n',
    'null\n\n',
    '{}\n\n',
    'hello',
    '1 1 1 - life-1',
    '1 1 1 - life-1\n',
    '2 1 1 - life-1\n\n',
    '1 1 1 -\n\n',
    '1 x 1 - life-1\n\n',
    '1 1 -1 - life-1\n\n',
    '1 1 9999999999999999 - life-1\n\n',
    '1 1 1 2 life-1\n\nx',
    '1 1 1 0,1 life-1\n\nx',
    '1 1 1 1,1 life-1\n\nxx',
    '1 1 1 "1" life-1\n\nx',
    '1 1 1 - life-1\n{}\n',
    '1 1 1 - life-1\nnull\n',
    '1 1 1 - life-1\n{"outcome":"great","finishedAt":1}\n'
  ]) {
    await server.command('PUBLISH', channel, message)
  }
  for (const message of ['', 'life-1', 'life-1\n', 'life-1\n{', 'life-1\n[]', 'life-1\n[1,"a"]', 'life-1\n["a"]']) {
    await server.command('PUBLISH', homeChannel('rsse', store.instance), message)
  }
  await server.command('PUBLISH', channel, '1 1 1 1 life-1\n\nx')
  await server.command('PUBLISH', homeChannel('rsse', store.instance), 'life-1\n[null,"a"]')
  await eventually('what is ours comes through', () => told.length > 1 && calls.length > 0)
  t.equal(told.length, 2)
  t.strictSame(calls, ['stop'])
})
