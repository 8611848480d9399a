// Draws people: a JSON list of them on stdin, a JSON list of as many SVGs on stdout. build.py runs it
// beside a node_modules of the pinned packages; people.py says what a person is.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createAvatar } from '@dicebear/core';
import * as personas from '@dicebear/personas';
import * as toonHead from '@dicebear/toon-head';

const require = createRequire(import.meta.url);
const { createElement } = require('react');
const { renderToStaticMarkup } = require('react-dom/server');
const { BigHead } = require('@bigheads/core');

const SIDE = 128; // pixels

// Our values → the package's. An attribute that is not here has the same values in both.
const TOON = {
  garment: {
    turtleneck: 'turtleNeck',
    jacket: 'openJacket',
    dress: 'dress',
    shirt: 'shirt',
    't-shirt': 'tShirt',
  },
  colour: {
    gray: '545454',
    red: 'b11f1f',
    blue: '0b3286',
    green: '147f3c',
    yellow: 'eab308',
    purple: '731ac3',
    pink: 'ec4899',
    orange: 'f97316',
    black: '151613',
    white: 'e8e9e6',
  },
  length: {
    short: null,
    'long straight': 'longStraight',
    'long wavy': 'longWavy',
    'shoulder-length': 'shoulderHigh',
  },
  cut: { 'side-combed': 'sideComed', undercut: 'undercut', spiky: 'spiky', bun: 'bun' },
  hair: { black: '2c1b18', red: 'a55728', blonde: 'd6b370', brown: '724133' },
  beard: {
    none: null,
    moustache: 'moustacheTwirl',
    'full beard': 'fullBeard',
    'long beard': 'longBeard',
  },
  mood: { laughing: 'laugh', angry: 'angry', surprised: 'agape', smiling: 'smile' },
  skin: { light: 'f1c3a5', tan: 'b98e6a', dark: '5c3829' },
};

const BIG_HEAD = {
  garment: {
    't-shirt': 'shirt',
    'dress shirt': 'dressShirt',
    'v-neck': 'vneck',
    'tank top': 'tankTop',
    dress: 'dress',
  },
  beard: { none: 'none', stubble: 'stubble', 'full beard': 'mediumBeard' },
  glasses: {
    none: 'none',
    'round glasses': 'roundGlasses',
    'small glasses': 'tinyGlasses',
    sunglasses: 'shades',
  },
  mood: {
    grinning: 'grin',
    sad: 'sad',
    surprised: 'open',
    serious: 'serious',
    cheeky: 'tongue',
  },
  skin: { light: 'light', tan: 'brown', dark: 'dark' },
};

const PERSONA = {
  garment: {
    'scarf top': 'small',
    sweater: 'rounded',
    singlet: 'squared',
    'checkered shirt': 'checkered',
  },
  colour: {
    red: 'e24553',
    purple: '6659d6',
    blue: '456dff',
    green: '7cb342',
    turquoise: '54d7c7',
    pink: 'f55d81',
    yellow: 'f8d25c',
  },
  cut: {
    long: 'long',
    'side-shaved': 'sideShave',
    curly: 'curly',
    pigtails: 'pigtails',
    bob: 'bobCut',
    bald: 'bald',
    cap: 'cap',
    beanie: 'beanie',
    mohawk: 'mohawk',
    fade: 'fade',
    bun: 'curlyBun',
  },
  hair: {
    black: '362c47',
    brown: '6c4545',
    blonde: 'f2c94c',
    orange: 'f29c65',
    gray: 'dee1f5',
    pink: 'e16381',
  },
  beard: {
    none: null,
    'walrus moustache': 'walrus',
    goatee: 'goatee',
    'full beard': 'beardMustache',
  },
  glasses: { none: null, 'square glasses': 'glasses', sunglasses: 'sunglasses' },
  mood: { smiling: 'smile', frowning: 'frown', surprised: 'surprise', smirking: 'smirk' },
  skin: { light: 'eeb4a4', tan: 'b16a5b', dark: '623d36' },
};

function translate(person, words) {
  const found = { ...person };
  for (const [attribute, values] of Object.entries(words)) {
    found[attribute] = values[person[attribute]];
    if (found[attribute] === undefined) {
      throw new Error(`${person.style}: ${attribute} has no value ${person[attribute]}`);
    }
  }
  return found;
}

// DiceBear takes lists to choose from, and how probable it is, in percent, that there is a part.
function choose(part, value) {
  return { [part]: value ? [value] : [], [`${part}Probability`]: value ? 100 : 0 };
}

// Shows only a part of the drawing: head and shoulders, so that the clothes are well seen.
function crop(svg, box) {
  return svg.replace(/viewBox="[^"]*"/, `viewBox="${box}" width="${SIDE}" height="${SIDE}"`);
}

function drawToon(person) {
  const is = translate(person, TOON);
  const avatar = createAvatar(toonHead, {
    clothes: [is.garment],
    clothesColor: [is.colour],
    hair: [is.cut],
    hairColor: [is.hair],
    ...choose('rearHair', is.length),
    ...choose('beard', is.beard),
    mouth: [is.mood],
    skinColor: [is.skin],
    eyes: [is.eyes],
    eyebrows: [is.brows],
  });
  return crop(avatar.toString(), '39 78 690 690');
}

function drawBigHead(person) {
  const is = translate(person, BIG_HEAD);
  const [hatColor, hat] = is.hat === 'none' ? ['white', 'none'] : is.hat.split(' ');
  const head = createElement(BigHead, {
    clothing: is.garment,
    clothingColor: is.colour,
    graphic: 'none',
    body: is.body,
    hair: is.cut,
    hairColor: is.hair,
    facialHair: is.beard,
    accessory: is.glasses,
    hat,
    hatColor,
    mouth: is.mood,
    lipColor: 'red',
    skinTone: is.skin,
    eyes: is.eyes,
    eyebrows: is.brows,
    lashes: is.lashes === 'yes',
    mask: false, // no disc behind
    circleColor: 'blue',
    faceMask: false,
    faceMaskColor: 'white',
  });
  return crop(renderToStaticMarkup(head), '70 130 860 860');
}

function drawPersona(person) {
  const is = translate(person, PERSONA);
  const avatar = createAvatar(personas, {
    body: [is.garment],
    clothingColor: [is.colour],
    hair: [is.cut],
    hairColor: [is.hair],
    ...choose('facialHair', is.beard),
    mouth: [is.mood],
    skinColor: [is.skin],
    eyes: [is.glasses ?? is.eyes],
    nose: [is.nose],
  });
  return crop(avatar.toString(), '5 10 54 54');
}

const DRAW = { toon: drawToon, bighead: drawBigHead, persona: drawPersona };
const people = JSON.parse(readFileSync(0, 'utf-8'));
process.stdout.write(JSON.stringify(people.map((person) => DRAW[person.style](person))));
