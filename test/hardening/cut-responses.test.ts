import t from 'tap'
import { checkEveryByte, checkSample } from '../helpers/cut-responses.ts'
import { FAULTS } from '../helpers/tcp-proxy.ts'

for (const fault of FAULTS) {
  t.test(`${fault} after every byte of an HTTP/1.1 response: a client that resumes has everything`, (t) =>
    checkEveryByte(t, 'http/1.1', fault)
  )
}

t.test('several faults in a row in large HTTP/1.1 responses: a client that resumes has everything', (t) =>
  checkSample(t, 'http/1.1')
)
