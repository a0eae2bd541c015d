import t from 'tap'
import { checkEveryByte, checkSample } from '../helpers/cut-responses.ts'

for (const fault of ['half-close', 'stall'] as const) {
  t.test(`${fault} after every byte of an HTTP/2 response: a client that resumes has everything`, (t) =>
    checkEveryByte(t, 'h2', fault)
  )
}

t.test('several faults in a row in large HTTP/2 responses: a client that resumes has everything', (t) =>
  checkSample(t, 'h2')
)
