// Serves SillyTavern's own router for pictures, as it is, without the rest of that application.
// node sillytavern.mjs FOLDER-OF-THE-PACKAGE: prints the port.
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const root = path.resolve(process.argv[2]);
const load = (name) => import(pathToFileURL(path.join(root, name)).href);
const express = createRequire(path.join(root, 'package.json'))('express');
(await load('src/util.js')).setConfigFilePath(path.join(root, 'default', 'config.yaml'));
const app = express();
app.use(express.json({ limit: '50mb' }));
app.use('/api/sd', (await load('src/endpoints/stable-diffusion.js')).router);
const server = app.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`));
